"""Diagnose a family on a tiny random model, or a model by its config."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

from ..api import accelerate
from ..methods import Illava
from ..models.families import FAMILIES, family_of
from ..models.loading import read_config
from ..models.located import locate
from ..models.tiny_models import tiny_model, variant
from ..planning.predict import skeleton
from ..runtime.contract import contract_faults
from .checks import one_line
from .verification import Verification, verify

WARNINGS, WIDTH = 3, 200
"""The number of warnings that are kept, and of characters of each."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of the checks on the tiny model of one family."""

    family: str
    tiny: str
    """The key of :data:`illava.models.tiny_models.CONFIGS` that was used."""
    verification: Verification | None
    """None if the model could not be built, or acceleration was refused."""
    refusal: str | None
    """The reason, if ``verification`` is None."""
    warnings: tuple[str, ...]
    """The first few Python warnings during the checks."""

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return self.verification is not None and self.verification.ok

    @property
    def transformers_fault(self) -> bool:
        """Whether transformers itself cannot run the family."""
        return self.verification is not None and not self.verification.plain_runs

    @property
    def verdict(self) -> str:
        """One line: "works here", or the fault."""
        return f"fault: {self.refusal}" if self.verification is None else self.verification.verdict

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "transformers_fault": self.transformers_fault,
            "tiny_model": self.tiny,
            "warnings": list(self.warnings),
            "verification": None if self.verification is None else self.verification.to_dict(),
        }


def examine(family: str, tiny: str | None = None) -> Diagnosis:
    """Build a tiny random model of a family and run all checks on it; takes about a second.

    Args:
        family: one of :func:`illava.supported_families`.
        tiny: the variant to use; default: the first.
    """
    tiny = family if tiny is None else tiny
    verification, refusal = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = tiny_model(tiny)
            verification = verify(model, method=_method(model))
        except Exception as error:
            refusal = one_line(error)
    texts = dict.fromkeys(f"{w.category.__name__}: {' '.join(str(w.message).split())}" for w in caught)
    # Deprecations inside the libraries concern their authors, not users.
    kept = [text for text in texts if not text.startswith(("DeprecationWarning", "PendingDeprecation"))]
    return Diagnosis(family, tiny, verification, refusal, tuple(text[:WIDTH] for text in kept[:WARNINGS]))


def _method(model: Any) -> Illava:
    """iLLaVA with two steps in each stage that the family has."""
    family = locate(model).family
    encoder, llm = () if family.encoder_refusal else (1, 3), () if family.llm_refusal else (2, 4)
    return Illava(encoder_layers=encoder, encoder_keep=0.7, llm_layers=llm, llm_keep=0.7)


@dataclass(frozen=True)
class Described:
    """A model as its config describes it; no weights are read and no remote code is run."""

    model: str
    family: str
    vision_tower: str
    """The ``model_type`` of its vision config."""
    attention: str | None
    """The attention implementation that transformers chooses here; None if the model is not supported."""
    tiny: str | None
    """The most similar tiny model; None if the model is not supported."""
    fault: str | None
    """Why it is not supported, or the parts of the contract that are missing."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def describe(model: str, trust_remote_code: bool = False) -> Described:
    """Read a model's config and check whether the model is supported.

    Args:
        model: as for :func:`illava.models.loading.load`.

    Raises InputError if the config cannot be read.
    """
    config = read_config(model, trust_remote_code)
    tower = str(getattr(getattr(config, "vision_config", None), "model_type", "none"))
    attention = tiny = fault = None
    try:
        family_of(config)
        modules = skeleton(config)
        attention = str(modules.llm.config._attn_implementation)  # type: ignore[union-attr]
        accelerate(modules.model).remove()
        lacking = [str(fault) for fault in contract_faults(modules)]
        fault = "; ".join(lacking) if lacking else None
        tiny = variant(config)
    except Exception as error:
        fault = one_line(error)
    return Described(model, config.model_type, tower, attention, tiny, fault)


def families() -> tuple[str, ...]:
    """All supported families, in the order of :data:`illava.models.families.FAMILIES`."""
    return tuple(FAMILIES)
