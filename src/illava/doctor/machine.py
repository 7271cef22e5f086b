"""The machine and the installation: versions, devices, attention backends, and the speed of dtypes."""

from __future__ import annotations

import platform
import time
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "accelerate", "peft")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SECONDS = 0.08
"""The time spent on timing each dtype."""
SIDE = {"cpu": 256, "cuda": 4096, "mps": 2048}
"""The size of the square matrices that are multiplied."""


@dataclass(frozen=True)
class Machine:
    """The machine that illava runs on."""

    versions: dict[str, str]
    """The versions of Python, illava and the installed ``PACKAGES``."""
    tested: tuple[str, str] | None
    """The oldest and the newest minor release of transformers that illava is tested with; None if unknown."""
    inside: bool | None
    """Whether the installed transformers is in that range, both ends included."""
    devices: dict[str, str]
    """Device -> its name."""
    attention: dict[str, bool]
    """Attention implementation -> whether it is available."""
    speed: dict[str, float | None]
    """Dtype -> GFLOP/s of a matrix product on ``speed_on``; None if not supported."""
    speed_on: str
    """The last of the devices."""
    kernels: str | None
    """Why illava's Triton kernels are not used on that device in bfloat16; None if they are."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def look(tested: tuple[str, str] | None) -> Machine:
    """Inspect this machine; takes about a second.

    Args:
        tested: the oldest and the newest minor release of transformers that illava is tested with.
    """
    from .. import __version__

    versions = {"python": platform.python_version(), "illava": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    # The version that is imported, which may differ from the installed one.
    import transformers

    versions["transformers"] = transformers.__version__
    devices = _devices()
    fastest = list(devices)[-1]
    return Machine(
        versions=versions,
        tested=tested,
        inside=None if tested is None else within(transformers.__version__, tested),
        devices=devices,
        attention=_attention(),
        speed={_name(dtype): gflops(dtype, fastest) for dtype in DTYPES},
        speed_on=fastest,
        kernels=_kernels(fastest),
    )


def within(release: str, tested: tuple[str, str]) -> bool:
    """Whether a release such as "5.23.0" is in a range of minor releases, including both ends."""
    low, this, high = (tuple(map(int, text.split(".")[:2])) for text in (tested[0], release, tested[1]))
    return low <= this <= high


def gflops(dtype: torch.dtype, device: str) -> float | None:
    """GFLOP/s of the product of two square matrices; None if the device does not support the dtype."""
    side = SIDE[torch.device(device).type]
    try:
        a = torch.ones(side, side, dtype=dtype, device=device)
        _synchronise(device, a @ a)
        count, begin = 0, time.perf_counter()
        while (passed := time.perf_counter() - begin) < SECONDS:
            _synchronise(device, a @ a)
            count += 1
    except RuntimeError:
        return None
    return 2 * side**3 * count / passed / 1e9


def _synchronise(device: str, result: torch.Tensor) -> None:
    # Reading one element waits for the whole product.
    if device != "cpu":
        result[0, 0].item()


def _devices() -> dict[str, str]:
    out = {"cpu": f"{_cpu()}, threads: {torch.get_num_threads()}"}
    if torch.backends.mps.is_available():
        out["mps"] = "Apple GPU"
    for i in reversed(range(torch.cuda.device_count())):
        about = torch.cuda.get_device_properties(i)
        out[f"cuda:{i}"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    return out


def _cpu() -> str:
    try:
        from ..bench.machine import machine

        return str(machine()["cpu"])
    except ImportError:
        # illava.bench needs a compatible transformers.
        return platform.processor() or platform.machine()


def _attention() -> dict[str, bool]:
    from transformers import utils

    def available(name: str) -> bool:
        function = getattr(utils, name, None)
        return bool(function is not None and function())

    return {
        "sdpa": True,
        "eager": True,
        "flash_attention_2": available("is_flash_attn_2_available"),
        "flash_attention_3": available("is_flash_attn_3_available"),
        "flex_attention": available("is_torch_flex_attn_available"),
    }


def _kernels(device: str) -> str | None:
    from ..ops import kernels

    with warnings.catch_warnings():
        # The reason is returned.
        warnings.simplefilter("ignore")
        return kernels.refusal(torch.device(device), torch.bfloat16)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
