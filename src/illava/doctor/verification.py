"""``illava.verify``: check acceleration on a loaded model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..api import _MARK, accelerate
from ..errors import UnsupportedError
from ..methods import Method
from ..methods.presets import default_method
from ..methods.shipped import shipped_with
from ..models.located import LocatedModules, locate
from ..models.tiny_prompts import device_of
from ..runtime.contract import contract_faults
from .checks import PLAIN, Check, run_checks

CONTRACT = "contract"


@dataclass(frozen=True)
class Verification:
    """The results of the checks on one model."""

    model_type: str
    transformers: str
    """Its installed version."""
    device: str
    dtype: str
    attention: str
    method: dict[str, Any]
    checks: tuple[Check, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(check.ok for check in self.checks)

    @property
    def faults(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def plain_runs(self) -> bool:
        """Whether the plain model runs; if not, the other checks were skipped."""
        return all(check.ok for check in self.checks if check.name == PLAIN)

    @property
    def verdict(self) -> str:
        """One line: "works here", or the first fault."""
        if self.ok:
            return "works here"
        first = next(check for check in self.faults if self.plain_runs or check.name == PLAIN)
        if not self.plain_runs:
            where = f"on transformers {self.transformers}"
            return f"the plain {self.model_type} does not run, {where}: {first.detail}"
        more = len(self.faults) - 1
        return f"fault: {first.name}: {first.detail}" + (f" (and {more} more)" if more else "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        own = {name: value for name, value in vars(self).items() if name != "checks"}
        checks = [check.to_dict() for check in self.checks]
        return {**own, "ok": self.ok, "verdict": self.verdict, "checks": checks}

    def __str__(self) -> str:
        """One line for the model, one for each check, one for the verdict."""
        head = (
            f"{self.model_type} with transformers {self.transformers}: {self.dtype} on {self.device}, "
            f"{self.attention} attention, {self.method['method']}"
        )
        return "\n".join([head, *(f"  {check}" for check in self.checks), self.verdict])


def verify(model: nn.Module, *, method: Method | None = None) -> Verification:
    """Check that acceleration is exact on a loaded model, with small images of noise.

    The checks of ``illava doctor`` (docs/new-transformers.md), of which the main ones are:

    - transformers has everything that illava relies on;
    - with ``keep=1``, logits are bit-identical to the plain model's;
    - a merged model that decodes with its KV cache agrees with one that recomputes the whole sequence;
    - each row of a padded batch agrees with the same prompt run alone;
    - after ``remove()``, logits and hooks are as before.

    No processor is needed. The checks take about 100 forward passes of up to three short prompts, most of one
    token each.

    Args:
        model: as for :func:`illava.accelerate`, with its language-model head, on any device and in any dtype.
            It is restored afterwards, also after an error.
        method: the method to check. Default: the one that ``accelerate(model)`` uses.

    Logits may differ by rounding: by 1e-4 of their standard deviation in float32, 0.02 in float16, 0.1 in
    bfloat16, plus a multiple of the plain model's own deviation in the same comparison.

    Raises:
        UnsupportedError: illava does not support the model, its attention backend or the installed
            transformers.
        ValueError: the model is already accelerated, or the method does not fit it.
    """
    import transformers

    modules = locate(model)
    if getattr(modules.base, _MARK, None) is not None:
        raise ValueError("this model is already accelerated; call remove() on its handle first")
    if not callable(getattr(modules.model, "generate", None)):
        raise UnsupportedError(
            f"verify needs a model with generate(), got {type(modules.model).__name__}; load it with "
            "AutoModelForImageTextToText"
        )
    if method is None:
        found = shipped_with(modules.model)
        method = default_method() if found is None else found.method
    begin = time.perf_counter()
    # Raises for unsupported models and methods before any check runs.
    accelerate(modules.model, method).remove()
    checks = [*_contract(modules), *run_checks(modules, method)]
    weight: Any = modules.model
    return Verification(
        model_type=modules.family.model_type,
        transformers=transformers.__version__,
        device=str(device_of(modules.model)),
        dtype=str(weight.dtype).removeprefix("torch."),
        attention=str(modules.llm.config._attn_implementation),  # type: ignore[union-attr]
        method=method.to_dict(),
        checks=tuple(checks),
        seconds=round(time.perf_counter() - begin, 2),
    )


def _contract(modules: LocatedModules) -> list[Check]:
    faults = [str(fault) for fault in contract_faults(modules)]
    detail = "; ".join(faults[:5]) if faults else "transformers has everything that illava relies on"
    return [Check(CONTRACT, not faults, detail)]
