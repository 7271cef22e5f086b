"""The parts of ``zoo/R`` put together for training: encoder with adapters, projector, LLM with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from illava.io.files import replacing

from ..trained import contents
from .encoder import Encoder
from .llm import AdaptedLLM
from .packing import Packed
from .recipe import ALPHA, RANK
from .state import restored

PROJECTOR = "multi_modal_projector"


class Projector(nn.Module):
    """LLaVA's projector: two linear layers with a GELU between them."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), computed in the dtype of ``x``."""
        for linear in (self.linear_1, self.linear_2):
            if linear is self.linear_2:
                x = F.gelu(x)
            x = F.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))
        return x


class TrainedModel(nn.Module):
    """``forward`` returns the hidden states that predict answers, and the ids they are to predict."""

    def __init__(self, encoder: Path, llm: Path, dtype: torch.dtype, device: torch.device | str = "cpu"):
        super().__init__()
        self.encoder = Encoder(encoder, dtype, device)
        self.llm = AdaptedLLM(llm, RANK, ALPHA, dtype)
        self.projector = Projector(self.encoder.model.config.hidden_size, self.llm.config.hidden_size)
        self.to(device)

    def forward(self, pictures: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """Hidden states (N, D) at all places with a target, row by row, and those targets (N,).

        Places come from the host, as an accelerator would have to be waited for to count them.

        Args:
            pictures: (B, S, S, 3) uint8.
        """
        visual = self.projector(self.encoder(pictures))
        before, after = packed.picture, packed.picture + visual.shape[1]
        words = [self.llm.embed(packed.tokens[:, part]) for part in (slice(before), slice(after, None))]
        embeds = torch.cat([words[0], visual, words[1]], dim=1)
        hidden = self.llm(embeds, packed.positions, packed.mask())
        # Unlike that of indexing, its backward pass does not sort the places.
        at_targets = hidden.flatten(0, 1).index_select(0, packed.wanted)
        return at_targets, packed.targets.flatten().index_select(0, packed.wanted)

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns with the LLM, by its names in the file of trained weights."""
        own = {f"{PROJECTOR}.{name}": weight for name, weight in self.projector.named_parameters()}
        return own | self.llm.named_adapters()

    def encoder_adapters(self) -> dict[str, nn.Parameter]:
        """What was learnt before: the encoder's adapters, by their names in the file of trained weights."""
        return self.encoder.named_adapters()


class Reached(NamedTuple):
    """Where in its recipe the run of some weights was."""

    recipe: str
    stage: str
    step: int
    reads: bool
    """Whether the encoder has learnt characters."""


def save(path: Path, weights: dict[str, Tensor], reached: Reached) -> None:
    """Write trained weights in bfloat16, whole or not at all, with where in its recipe the run was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: weight.detach().to("cpu", torch.bfloat16).contiguous() for name, weight in weights.items()
    }
    where = {name: str(value) for name, value in reached._asdict().items()}
    with replacing(path) as partial:
        save_file(stored, partial, {"rank": str(RANK), "alpha": str(ALPHA), **where, "format": "pt"})
        partial.chmod(0o644)  # safetensors writes files that only their owner can read


def restore(path: Path, weights: dict[str, nn.Parameter]) -> Reached:
    """Read what :func:`save` wrote into ``weights``.

    Raises ValueError if the file cannot be read or does not fit.
    """
    held, metadata = contents(path)
    restored(weights, held, path)
    try:
        recipe, stage, step = (metadata[name] for name in ("recipe", "stage", "step"))
    except KeyError as error:
        raise ValueError(f"{path} does not say {error.args[0]}, as weights of a training run do") from None
    return Reached(recipe, stage, int(step), metadata.get("reads") == str(True))
