"""All image-text-to-text models of the installed transformers: supported, an alias, or why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers.models.auto import modeling_auto

from .families import FAMILIES
from .family import Family
from .unsupported import Stage, Stages, unsupported

UNKNOWN = Stage("open", "newer than this version of illava, which does not know it")
"""Of a model type that neither an entry nor the table names."""


@dataclass(frozen=True)
class Coverage:
    """What is known about one model type."""

    model_type: str
    model_class: str
    alias_of: str | None
    """The model type whose classes it runs, if it has none of its own."""
    stages: Stages

    def to_dict(self) -> dict[str, Any]:
        """For ``illava info --all --json``."""
        return {
            "model_type": self.model_type,
            "model_class": self.model_class,
            "alias_of": self.alias_of,
            "image_encoder": asdict(self.stages.encoder),
            "llm": asdict(self.stages.llm),
        }


def coverage() -> tuple[Coverage, ...]:
    """Every image-text-to-text model type of the installed transformers, by name."""
    classes = model_classes()
    owners = owners_of(classes)
    out = []
    for name, kind in sorted(classes.items()):
        owner = owners[name]
        if owner == name:
            out.append(Coverage(name, kind, None, stages_of(name)))
            continue
        stage = Stage("open", f"runs the classes of {owner}, without an entry of its own")
        out.append(Coverage(name, kind, owner, Stages(stage, stage)))
    return tuple(out)


def stages_of(model_type: str) -> Stages:
    """The stages of a model type, which need not be in the installed transformers."""
    if model_type in FAMILIES:
        return stages_of_family(FAMILIES[model_type])
    return unsupported().get(model_type, Stages(UNKNOWN, UNKNOWN))


def stages_of_family(family: Family) -> Stages:
    """The stages of a supported family."""
    reasons = family.encoder_refusal, family.llm_refusal
    return Stages(*(Stage("no", reason) if reason else Stage("yes") for reason in reasons))


def model_classes() -> dict[str, str]:
    """Model types to the names of their image-text-to-text classes, from transformers' own mapping."""
    names: Mapping[str, Any] = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return {name: kind if isinstance(kind, str) else kind[0] for name, kind in names.items()}


def owners_of(classes: Mapping[str, str]) -> dict[str, str]:
    """Model types to the one that a class is named for: themselves, unless they are aliases.

    Of the model types of one class, it is the one with an entry, else the one whose letters begin the name of
    the class.
    """
    out = {}
    for name, kind in classes.items():
        sharing = [other for other, its in classes.items() if its == kind]
        out[name] = max(sharing, key=lambda other: (other in FAMILIES, _begins(kind, other)))
    return out


def _begins(kind: str, name: str) -> bool:
    letters = "".join(letter for letter in name if letter.isalnum())
    return kind.lower().replace("_", "").startswith(letters)
