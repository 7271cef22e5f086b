"""The speed of an accelerator: from its maker's data sheet, or measured on the device at hand.

The model is a roofline. A kernel takes the device max(bytes / bandwidth, FLOPs / matrix rate), and it takes
the host a constant to launch it. Launches are asynchronous, so a part of a pass takes the larger of both sums
(:mod:`illava.planning.roofline`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

MATRIX_EFFICIENCY = 0.6
"""Assumption: the share of a data sheet's matrix rate that products of a model's sizes reach."""
BANDWIDTH_EFFICIENCY = 0.8
"""Assumption: the share of a data sheet's bandwidth that kernels reach."""
LAUNCH_SECONDS = 10e-6
"""Assumption: the host's time from one kernel to the next in eager code of transformers, which includes
Python modules, torch's dispatcher and the driver. The launch alone takes about half of it."""
SYNCHRONISATION_SECONDS = 20e-6
"""Assumption: the time in which nothing runs when the host reads a value from an idle device."""
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class DataSheet:
    """Peak rates that a maker publishes, without structured sparsity."""

    half: float
    """FLOPs per second of matrix products in bfloat16 and float16 with float32 sums."""
    float32: float
    """The same in float32, without TF32."""
    bandwidth: float
    """Bytes per second."""


DATA_SHEETS = {
    "a100": DataSheet(312e12, 19.5e12, 2.039e12),
    "h100": DataSheet(989.4e12, 66.9e12, 3.35e12),
    "l4": DataSheet(121e12, 30.3e12, 300e9),
    "rtx4090": DataSheet(165.2e12, 82.6e12, 1.008e12),
}
"""By name, from publications of NVIDIA:

- A100 SXM with 80 GB: data sheet "NVIDIA A100 Tensor Core GPU";
- H100 SXM5: white paper "NVIDIA H100 Tensor Core GPU Architecture" and data sheet;
- L4: data sheet "NVIDIA L4 Tensor Core GPU", which states 242 TFLOPs with sparsity: half of them;
- RTX 4090: white paper "NVIDIA Ada GPU Architecture", appendix A.
"""


@dataclass(frozen=True)
class AcceleratorRates:
    """The speed of one accelerator and its host, in one dtype."""

    name: str
    dtype: str
    """Of weights and activations: "bfloat16", "float16" or "float32"."""
    launch_seconds: float
    """Of the host, from one kernel to the next. 0 describes a model whose kernels are all in CUDA graphs."""
    synchronisation_seconds: float
    """Added each time the host waits for a value from the device."""
    bytes_per_second: float
    flops_per_second: float
    """Of matrix products in ``dtype``."""
    float32_flops_per_second: float
    """Of matrix products in float32: scores, selection and merging use it."""
    measured: bool
    """False if the rates come from a data sheet and assumptions."""

    @property
    def element_size(self) -> int:
        """Bytes of an element of ``dtype``."""
        size: int = getattr(torch, self.dtype).itemsize
        return size

    def device_seconds(self, flops: float, moved: float, float32: bool = False) -> float:
        """Seconds of one kernel on the device.

        Args:
            flops: of matrix products; 0 for elementwise operators.
            moved: bytes read and written.
            float32: whether the products are in float32, whatever ``dtype`` is.
        """
        rate = self.float32_flops_per_second if float32 else self.flops_per_second
        return max(flops / rate, moved / self.bytes_per_second)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values; ``AcceleratorRates(**values)`` reads them."""
        return asdict(self)


def data_sheet_rates(name: str, dtype: torch.dtype = torch.bfloat16) -> AcceleratorRates:
    """The rates of an accelerator that need not be at hand, by its data sheet and the assumptions above.

    No accelerator has confirmed them. ``dataclasses.replace`` changes single rates.

    Args:
        name: a key of :data:`DATA_SHEETS`.

    Raises ValueError for an unknown name and for another dtype than bfloat16, float16 and float32.
    """
    kind = str(dtype).removeprefix("torch.")
    if name not in DATA_SHEETS:
        raise ValueError(f"unknown accelerator {name!r}; give one of {', '.join(DATA_SHEETS)}")
    if kind not in (*HALF, "float32"):
        raise ValueError(f"no rate in {kind}; give bfloat16, float16 or float32")
    sheet = DATA_SHEETS[name]
    return AcceleratorRates(
        name=name,
        dtype=kind,
        launch_seconds=LAUNCH_SECONDS,
        synchronisation_seconds=SYNCHRONISATION_SECONDS,
        bytes_per_second=BANDWIDTH_EFFICIENCY * sheet.bandwidth,
        flops_per_second=MATRIX_EFFICIENCY * (sheet.half if kind in HALF else sheet.float32),
        float32_flops_per_second=MATRIX_EFFICIENCY * sheet.float32,
        measured=False,
    )
