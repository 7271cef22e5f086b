"""The entry of a model family: its modules, sizes, layout of pictures, and merging schedule.

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
"""Matches every kind of image encoder, for families that have only one."""


@dataclass(frozen=True)
class Schedule:
    """The layers that merge and the share that each keeps, for a model of a given depth."""

    encoder_depth: int
    encoder_layers: tuple[int, ...]
    encoder_keep: tuple[float, ...]
    llm_depth: int
    llm_layers: tuple[int, ...]
    llm_keep: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Family:
    """Everything that illava needs to know about one model family.

    Module paths are relative to the base model (``model.model``) of transformers' own classes.
    """

    model_type: str
    schedule: Schedule

    # -- modules --------------------------------------------------------------------------------------------
    encoder: str = "vision_tower"
    projector: str = "multi_modal_projector"
    """The module that maps units to LLM features row by row. At its output dropped units are marked."""
    towers: Mapping[str, Tower] = field(kw_only=True)
    """The image encoders of this family, by the ``model_type`` of the vision config."""
    row_mixers: tuple[str, ...] = ()
    """Methods of the base model between projector and LLM that may average feature rows."""
    taps: str | None = None
    """A list of further projectors, whose inputs come from inside the encoder (deepstack)."""
    row_wise: str | None = None
    """A module after the projector that maps features row by row. Marked rows reach it as zeros: they would
    make the gradients of its weights NaN."""
    unfolds_after: str | None = None
    """If the tokens of a unit form a square of a grid: the module after which the grid is split into
    units."""
    unfolds_before: str | None = None
    """The same, if the module itself splits its input into units."""
    compacts_before: str | None = None
    """The first module after that split that acts row by row, so that it can skip dropped units."""
    resampler: str | None = None
    """A module in which queries, fixed in number, read the patches by cross-attention. No feature is marked
    then; :attr:`features` gives their number."""
    folds_by_grid: bool = False
    """Whether the projector gets the tokens in raster order with the grids of the pictures, and joins those
    of each unit by these."""
    pooler: str | None = None
    """A module before the projector that averages the rows of a video's frames."""
    outer_masks: bool = False
    """Whether the outer model makes the LLM's attention masks, because attention within a picture is
    bidirectional."""
    llm: str = "language_model"
    llm_layers: str = "layers"
    llm_attention: str = "self_attn"
    llm_norm: str | None = "input_layernorm"
    """The norm before a layer's attention; None if the attention gets the layer's own input."""

    all_logits: bool = False
    """Whether the model with a head computes the logits of all tokens, without ``logits_to_keep``."""

    # -- config ---------------------------------------------------------------------------------------------
    encoder_dimensions: Callable[[Any], EncoderDimensions] = field(kw_only=True)
    """Model config to the encoder's sizes."""
    group: Callable[[Any], int] = lambda config: 1
    """Model config to g, the number of tokens per unit."""
    mixed_patches: bool = False
    """Whether the authors' own code for this family merges single patches and groups the survivors anew."""
    first_llm_layer: Callable[[Any], int] = lambda config: 1
    """Model config to the first decoder layer before which tokens may merge."""
    config_attributes: tuple[str, ...] = ()
    """Attributes of the model config that are read. Many have defaults, so a renamed one would otherwise not
    be detected."""
    llm_attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attributes of the LLM's config that are read, by ``model_type``, for LLMs that only this family
    uses."""
    features: Callable[[Any], int] | None = None
    """Model config to the features of a picture of fixed size, if they are not one per unit."""
    encoder_refusal: str = ""
    """Why nothing can merge before the LLM; "" if it can. ``projector`` then is the module that outputs one
    row per placeholder, (tiles, n, d), and nothing else about the encoder is read."""
    llm_refusal: str = ""
    """Why tokens cannot merge in the LLM; "" if they can."""
    functions: Mapping[tuple[str, str], Call] = field(default_factory=dict)
    """(module, name) of the functions of transformers that the entry calls."""
    requires: tuple[str, ...] = ()
    """Packages beside transformers without which its models cannot be built."""
    broken_releases: tuple[str, ...] = ()
    """Releases of transformers ("5.19") whose own implementation of the family does not run."""

    # -- pictures -------------------------------------------------------------------------------------------
    picture: Callable[[LocatedModules, Size, bool], Workload] = whole_picture
    """Modules, size, and whether the prompt has a single picture, to the workload of one picture."""
    video: Callable[[LocatedModules, Size, int], Workload] | None = None
    """Modules, size and number of frames to the workload of a video; None if videos are not supported."""
    tiles: Callable[[int, Size], Size] | None = None
    """Side of a tile in pixels and size of a picture to the rows and columns of tiles. Only for families
    whose processor splits pictures into tiles that the model treats as separate pictures; if there is more
    than one tile, the whole picture comes last."""
    resize: Callable[[Any, Size, tuple[int, int] | None], Size] | None = None
    """Model config, size, and minimum and maximum number of pixels (None: the published ones) to the size to
    which the processor resizes a picture; None if no limits are published."""
    picture_format: Callable[[Any], str] = lambda config: "square"
    """Model config to the format in which the processor prepares a picture, one of
    :data:`illava.models.tiny_prompts.SIZES`."""
    token_types: Callable[[Tensor], dict[str, Tensor]] = lambda kinds: {}
    """(B, L) token kinds, 0 for text, 1 for pictures and 2 for videos, to the arguments of the model that
    encode them."""
    noise: Callable[[Any, Size, int, int], NoisePictures] | None = None
    """Model config, size, pictures and frames to random pictures; None if ``illava bench`` cannot run it."""
    picture_marks: int = 2
    """Special tokens that the processor adds around a picture."""

    # -- tests ----------------------------------------------------------------------------------------------
    tiny: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """Configs of tiny models by name: the family's own first, then its variants ("FAMILY-VARIANT")."""

    @property
    def experts(self) -> bool:
        """Whether the LLM is a mixture of experts."""
        return any("output_router_logits" in names for names in self.llm_attributes.values())

    def prefix_features(self, config: Any) -> int:
        """Features of class tokens and registers before those of each picture's patches.

        Transformers' "default" drops the first token of a tile, which is the class token. Registers follow it
        and reach the LLM like patches.
        """
        tower = self.tower(config)
        if tower is None:
            return 0
        dropped = getattr(config, "vision_feature_select_strategy", "default") != "full"
        return max(0, tower.prefix(config.vision_config) - dropped)

    def tower(self, config: Any) -> Tower | None:
        """The image encoder of a model config; None if it is not an encoder known for this family."""
        kind = getattr(getattr(config, "vision_config", None), "model_type", "unknown")
        return self.towers.get(ANY) or self.towers.get(kind)
