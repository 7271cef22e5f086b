"""What is measured on a card, and the small sizes at which the same code is rehearsed on a CPU."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from illava.bench import published
from illava.models.tiny_models import config


@dataclass(frozen=True)
class Settings:
    """Sizes of all parts; the defaults are those of a card."""

    device: str = "cuda"
    rehearsal: bool = False
    dtype: str = "bfloat16"
    layers: int | None = None
    """A slice of so many layers of each shape; None: all."""
    shapes: tuple[str, ...] = (
        "qwen2-vl-2b",
        "qwen2.5-vl-7b",
        "qwen3-vl-8b",
        "llava-onevision-7b",
        "internvl3-8b",
    )
    """Published shapes of the part "times", most important first."""
    sizes: tuple[int, ...] = (672, 1344)
    """Pixels a side."""
    rounds: int = 5
    new_tokens: int = 16
    """Length of the answers of the part "times"."""
    share_calls: int = 3
    """How often the share of illava's own work is measured, after one call to warm up."""
    shape: str = "qwen2-vl-2b"
    """The shape of batches, decoding and profile."""
    size: int = 672
    batches: tuple[int, ...] = (1, 8, 32)
    batch_rounds: int = 3
    most: int = 4096
    """The largest batch that is tried."""
    search_seconds: float = 60
    """The time limit of the search for the largest batch, for each variant."""
    answer: int = 32
    """Length of the answers of the part "batches"."""
    decoded: int = 65
    """Length of the answers of the part "decoding"."""
    decoding_rounds: int = 3
    compile_backend: str = "inductor"
    units: tuple[int, ...] = (576, 2304)
    """Units of a segment in the part "equality"."""
    width: int = 5120
    """Their width: four tokens of an encoder of width 1280."""
    slices: tuple[str, ...] = ("qwen2-vl-2b", "llava-onevision-0.5b")
    """Shapes whose first two layers are compared with the CPU."""
    slice_size: int = 336
    ceiling_side: int = 8192
    """Rows of the matrices whose product gives the highest FLOP/s."""
    suite_seconds: float = 180
    """The time limit of tests/gpu."""
    flops: float = 150e12
    """FLOP/s, and by the next field seconds of one decoding step, that the time of a row is predicted by."""
    step: float = 0.03

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of weights and pixels."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def add_tiny_shapes() -> None:
    """Give tiny shapes names among the published ones, "tiny-" and the family, if they have none yet."""
    for name in REHEARSAL.shapes:
        family = name.removeprefix(TINY)
        if name.startswith(TINY) and name not in published.SHAPES:
            published.SHAPES[name] = published.Shape(f"random weights, {family}", config(family).to_dict())


TINY = "tiny-"
CARD = Settings()
REHEARSAL = Settings(
    device="cpu",
    rehearsal=True,
    layers=2,
    # A slice of one published shape, and tiny shapes of the four other families.
    shapes=("qwen2-vl-2b", "tiny-qwen2_5_vl", "tiny-qwen3_vl", "tiny-llava_onevision", "tiny-internvl"),
    sizes=(112,),
    rounds=1,
    new_tokens=3,
    share_calls=1,
    size=112,
    batches=(1, 2),
    batch_rounds=1,
    most=4,
    search_seconds=10,
    answer=4,
    decoded=5,
    decoding_rounds=1,
    # This backend only traces: compiling takes minutes on a CPU.
    compile_backend="eager",
    units=(64,),
    width=64,
    slices=("qwen2-vl-2b",),
    slice_size=112,
    ceiling_side=256,
    suite_seconds=120,
    flops=40e9,
    step=0.06,
)
