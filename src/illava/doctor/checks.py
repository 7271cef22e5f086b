"""What an accelerated model must share with the plain one, checked on small pictures of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..api import Handle, accelerate
from ..errors import UnsupportedError
from ..methods import Illava, Method
from ..models.located import LocatedModules
from ..report.report import Report
from .everything import Everything
from .inputs import Picture, pictures, prompt
from .running import STEPS, decode, left_behind, state_of, undisturbed, words

PLAIN = "plain model runs"
"""The check that only transformers can fail."""
CLOSE = {torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest deviation of a logit from rounding, in units of the logits' standard deviation, at least of 1."""
EXACT = 1e-4
"""The same for float32 and float64."""
ROUNDING = 6
"""How many times the plain model's own deviation comes on top: between a batch and single rows, and between
decoding and recomputing."""
MOVED, SIMILAR = 0.1, 0.3
"""Where rounding moves the choice between units of nearly equal scores: the share of the kept units that may
differ, and then the root mean square of the deviation, in the same units."""
DRAWS = 3
"""Where it moves more than that, how many pairs of pictures are tried."""


@dataclass(frozen=True)
class Check:
    """One property, and whether it holds."""

    name: str
    ok: bool
    detail: str
    """What was found; for a fault also what was expected."""
    deviation: float | None = None
    """The largest, in units of the logits' standard deviation (at least 1)."""
    tolerance: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {'ok' if self.ok else 'FAULT'}: {self.detail}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


Rows = list[tuple[list[int], list[Picture]]]


def run_checks(modules: LocatedModules, method: Method) -> list[Check]:
    """All checks, in order; the model comes back as it was.

    An error inside a check becomes a failed check. After the plain model has failed, none follows.
    """
    with undisturbed(modules):
        for seed in range(DRAWS):
            checks = _Checks(modules, method, seed)
            found = checks.run()
            if all(check.ok for check in found) or not checks.by_choice:
                break
        return found


class _Checks:
    def __init__(self, modules: LocatedModules, method: Method, seed: int) -> None:
        self.modules, self.method, self.seed = modules, method, seed
        self.by_choice = False
        """Whether rounding may have failed a check, by moving the choice between nearly equal units."""
        text = words(modules, 16 + STEPS)
        self.text, self.dictated = text[:16], text[16:]
        self.found: list[Check] = []
        self.rows: Rows = []
        # Logits of the plain model, and of the merged one.
        self.plain, self.plain_alone, self.merged = (torch.empty(0),) * 3
        self.own = 0.0
        """The deviation of two runs of the plain model."""
        self.report: Report | None = None
        dtype: Any = modules.model.dtype
        self.coarse, self.close = dtype in CLOSE, CLOSE.get(dtype, EXACT)

    def run(self) -> list[Check]:
        self._check(PLAIN, self._run_plain)
        if not self.found[-1].ok:
            return self.found
        before = state_of(self.modules.model)
        self._check("keep=1 is the plain model", self._keep_all)
        self._check("merging", self._merge)
        if self.report is not None:
            self._check("cached = recomputed", self._recompute)
            self._check("batch = single", self._single)
        self._check("merging all to itself", self._keep_everything)
        self._check("undo", lambda name: self._undone(name, before))
        return self.found

    def _check(self, name: str, check: Callable[[str], Check]) -> None:
        try:
            self.found.append(check(name))
        except UnsupportedError:
            # What the method does not take is no fault.
            raise
        except Exception as error:
            self.found.append(Check(name, False, one_line(error)))

    def _draw(self) -> Rows:
        """Two pictures of unequal size, unequal texts, and a row without a picture."""
        shown = pictures(self.modules.model, 2, self.seed * 100)
        return [(self.text[:4], shown[:1]), (self.text[4:6], shown[1:]), (self.text[6:12], [])]

    def _decode(self, rows: Rows, cached: bool = True) -> Tensor:
        return decode(self.modules, prompt(self.modules.model, rows), self.dictated, cached)

    def _alone(self) -> Tensor:
        return torch.cat([self._decode([row]) for row in self.rows], dim=1)

    def _run_plain(self, name: str) -> Check:
        self.rows = self._draw()
        self.plain, self.plain_alone = self._decode(self.rows), self._alone()
        if not bool(self.plain.isfinite().all()):
            return Check(name, False, "its logits are not finite")
        # Not 0 with kernels that add in any order.
        self.own = deviation(self._decode(self.rows), self.plain)
        return Check(name, True, f"{len(self.rows)} rows, {STEPS} decoded tokens")

    def _keep_all(self, name: str) -> Check:
        with accelerate(self.modules.model, Illava(keep=1.0)):
            found = self._decode(self.rows)
        return self._same(name, found)

    def _keep_everything(self, name: str) -> Check:
        # Finds a block that does something else between its attention and its end than illava takes it to do.
        everything: Any = Everything(self.method)
        with Handle(self.modules.model, everything):
            found = self._decode(self.rows)
        return self._close(name, found, self.plain, self.own)

    def _same(self, name: str, found: Tensor) -> Check:
        if torch.equal(found, self.plain):
            return Check(name, True, "logits are bit-identical", 0.0, 0.0)
        if self.own:
            return self._close(name, found, self.plain, self.own)
        off = deviation(found, self.plain)
        detail = f"logits must be bit-identical to the plain model's, they deviate by {off:.1e}"
        return Check(name, False, detail, off, 0.0)

    def _merge(self, name: str) -> Check:
        with accelerate(self.modules.model, self.method) as handle:
            self.merged = self._decode(self.rows)
            self.report = report = handle.report
        shown = sum(picture.tokens for _, pictures in self.rows for picture in pictures)
        if report.visual_tokens != shown:
            return Check(
                name, False, f"the report counts {report.visual_tokens} visual tokens, the prompt has {shown}"
            )
        if not bool(self.merged.isfinite().all()):
            return Check(name, False, "logits are not finite, those of the plain model are")
        left = f"{report.final_tokens} of {shown} visual tokens left"
        if handle.plan.empty:
            return Check(name, True, f"{left}, as the method asks for")
        if report.final_tokens >= shown:
            return Check(
                name, False, f"{left}: the other checks need a method that drops tokens of small pictures"
            )
        return Check(name, True, left)

    def _recompute(self, name: str) -> Check:
        own = deviation(self._decode(self.rows, cached=False), self.plain)
        with accelerate(self.modules.model, self.method) as handle:
            found = self._decode(self.rows, cached=False)
            report = handle.report
        return self._close(name, found, self.merged, own, [report])

    def _single(self, name: str) -> Check:
        reports, found = [], []
        with accelerate(self.modules.model, self.method) as handle:
            for row in self.rows:
                found.append(self._decode([row]))
                if row[1]:
                    reports.append(handle.report)
        own = deviation(self.plain_alone, self.plain)
        return self._close(name, torch.cat(found, dim=1), self.merged, own, reports)

    def _undone(self, name: str, before: Any) -> Check:
        left = left_behind(before, state_of(self.modules.model))
        if left:
            return Check(name, False, f"{len(left)} attributes are left behind: {', '.join(left[:3])}")
        return self._same(name, self._decode(self.rows))

    def _close(
        self, name: str, found: Tensor, wanted: Tensor, own: float, reports: list[Report] | None = None
    ) -> Check:
        """Compare logits up to rounding; ``own`` is the plain model's deviation in the same comparison."""
        off, tolerance = deviation(found, wanted), self.close + ROUNDING * own
        detail = f"deviation {off:.1e}, tolerance {tolerance:.1e}"
        if off <= tolerance:
            return Check(name, True, detail, off, tolerance)
        moved = 0.0 if reports is None or self.report is None else _moved(self.report, reports)
        if moved:
            detail += f", {moved:.1%} of the kept units differ"
        rounded = self.coarse or own > self.close
        if rounded and 0 < moved <= MOVED and deviation(found, wanted, mean=True) <= SIMILAR:
            return Check(name, True, f"{detail}: within rounding", off, tolerance)
        self.by_choice |= rounded and moved > 0
        return Check(name, False, detail, off, tolerance)


def deviation(found: Tensor, wanted: Tensor, mean: bool = False) -> float:
    """The largest difference of (steps, B, V) logits, in units of their standard deviation, at least of 1.

    NaN counts as infinite. With ``mean`` the root mean square over the vocabulary, of the worst step and row.
    """
    scale = wanted.std().clamp(min=1)
    difference = (found - wanted) / scale
    worst = difference.square().mean(-1).sqrt().max() if mean else difference.abs().max()
    return float(worst.nan_to_num(nan=float("inf")))


def _moved(one: Report, others: list[Report]) -> float:
    """The share of the units kept after the last step that another run does not keep."""
    ours = [picture.kept[-1] for picture in one.pictures if picture.kept]
    theirs = [picture.kept[-1] for other in others for picture in other.pictures if picture.kept]
    if len(ours) != len(theirs):
        return 1.0
    kept = [
        ({tuple(box) for box in a.tolist()}, {tuple(box) for box in b.tolist()})
        for a, b in zip(ours, theirs, strict=True)
    ]
    total = sum(len(a) for a, _ in kept)
    return sum(len(a - b) for a, b in kept) / max(1, total)


def one_line(error: BaseException) -> str:
    """An error as one line, its kind first."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
