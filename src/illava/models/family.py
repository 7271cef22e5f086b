"""What the entry of a model family holds: its modules, sizes, layout of pictures, and merging schedule.

The entries are in :mod:`illava.models.families`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..compat.calls import Call
from .dimensions import EncoderDimensions
from .noise import NoisePictures
from .picture_layouts import whole_picture
from .towers import Tower
from .workload import Size, Workload

if TYPE_CHECKING:
    from .located import LocatedModules

ANY = "*"
"""Stands for every kind of image encoder, where a family has but one."""


@dataclass(frozen=True)
class Schedule:
    """Which layers merge and how much they keep, stated for a model of a given depth."""

    encoder_depth: int
    encoder_layers: tuple[int, ...]
    encoder_keep: tuple[float, ...]
    llm_depth: int
    llm_layers: tuple[int, ...]
    llm_keep: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Family:
    """Everything that illava knows of one model family.

    Module paths start at the base model (``model.model``) and are those of transformers' own classes.
    """

    model_type: str
    schedule: Schedule

    # -- modules --------------------------------------------------------------------------------------------
    encoder: str
    projector: str
    """What turns units into features of the LLM row by row, and where dropped ones get their places back."""
    towers: Mapping[str, Tower]
    """By the ``model_type`` of the vision config, the image encoders that this family comes with."""
    row_mixers: tuple[str, ...] = ()
    """Methods of the base model between projector and LLM that may average feature rows."""
    taps: str | None = None
    """A list of more such projectors, fed from inside the encoder (deepstack)."""
    unfolds_after: str | None = None
    """Where the tokens of a unit are a square of a grid: the module after which the grid is cut up."""
    unfolds_before: str | None = None
    """The same, where it is the module itself that cuts up its input."""
    compacts_before: str | None = None
    """The first module after that which works row by row, so that it need not see dropped units."""
    pooler: str | None = None
    """A module before the projector that averages the rows of a video's frames."""
    outer_masks: bool = False
    """Whether the outer model makes the LLM's attention masks, because pictures see themselves whole."""
    llm: str = "language_model"
    llm_layers: str = "layers"
    llm_attention: str = "self_attn"
    llm_norm: str = "input_layernorm"

    # -- config ---------------------------------------------------------------------------------------------
    encoder_dimensions: Callable[[Any], EncoderDimensions] = field(kw_only=True)
    """Model config to the encoder's sizes."""
    group: Callable[[Any], int] = lambda config: 1
    """Model config to g, the tokens a unit is made of."""
    first_llm_layer: Callable[[Any], int] = lambda config: 1
    """Model config to the first decoder layer before which tokens may merge."""
    config_attributes: tuple[str, ...] = ()
    """Attributes of the model config that are read. Many have defaults, so that a renamed one would go
    unnoticed."""
    llm_attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The same of the LLM's config, by the ``model_type`` of the LLMs that only this family has."""
    functions: Mapping[tuple[str, str], Call] = field(default_factory=dict)
    """(module, name) of the functions of transformers that the entry calls."""
    broken_releases: tuple[str, ...] = ()
    """Releases of transformers ("5.19") whose own implementation of the family does not run."""

    # -- pictures -------------------------------------------------------------------------------------------
    picture: Callable[[LocatedModules, Size, bool], Workload] = whole_picture
    """Modules, size, and whether the prompt holds a single picture, to what one picture makes of them."""
    video: Callable[[LocatedModules, Size, int], Workload] | None = None
    """Modules, size and number of frames to what a video makes of them; None where the family has none."""
    tiles: Callable[[int, Size], Size] | None = None
    """Pixels of a tile's side and the size of a picture to the rows and columns of tiles, where the processor
    cuts pictures up without telling the model; with more than one tile the whole picture comes last."""
    resize: Callable[[Any, Size, tuple[int, int] | None], Size] | None = None
    """Model config, size, and the fewest and the most pixels (None: those published) to the size that the
    processor resizes a picture to; None where no limits are published."""
    picture_format: Callable[[Any], str] = lambda config: "square"
    """Model config to how the processor prepares a picture, one of
    :data:`illava.doctor.inputs.SIZES`."""
    token_types: Callable[[Tensor], dict[str, Tensor]] = lambda kinds: {}
    """(B, L) 0 for text, 1 for pictures and 2 for videos to the arguments that the processor makes of it."""
    noise: Callable[[Any, Size, int, int], NoisePictures] | None = None
    """Model config, size, pictures and frames to pictures of noise; None where ``illava bench`` has none."""
    picture_marks: int = 2
    """Tokens that the processor writes around a picture."""

    # -- tests ----------------------------------------------------------------------------------------------
    tiny: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """Configs of tiny models by name: the family's own first, then its variants ("FAMILY-VARIANT")."""

    @property
    def experts(self) -> bool:
        """Whether the LLM is a mixture of experts."""
        return any("output_router_logits" in names for names in self.llm_attributes.values())

    def tower(self, config: Any) -> Tower | None:
        """The image encoder of a model config; None for one that the family is not known with."""
        kind = getattr(getattr(config, "vision_config", None), "model_type", "unknown")
        return self.towers.get(ANY) or self.towers.get(kind)
