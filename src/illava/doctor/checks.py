"""Checks of an accelerated model against the plain one, on small images of noise."""

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
from ..models.tiny_prompts import Picture, pictures, prompt
from ..report.report import Report
from .everything import Everything
from .running import STEPS, decode, left_behind, state_of, undisturbed, words

PLAIN = "plain model runs"
"""The check of transformers alone, without illava."""
CLOSE = {torch.float16: 0.02, torch.bfloat16: 0.1}
"""Tolerance for the largest deviation of a logit, in units of the logits' standard deviation (at least 1)."""
EXACT = 1e-4
"""The same for float32 and float64."""
ROUNDING = 6
"""The plain model's own deviation, between a batch and single rows and between decoding and recomputing, is
multiplied by this and added to the tolerance."""
MOVED, SIMILAR = 0.1, 0.3
"""Limits if rounding changes the selection among units of nearly equal scores: the share of kept units that
may differ, and the root mean square of the deviation, in the same units as above."""
DRAWS = 3
"""The number of image pairs that are tried if rounding changes the selection beyond these limits."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    detail: str
    """The observation, and for a fault also the expectation."""
    deviation: float | None = None
    """The largest deviation of a logit, in units of the logits' standard deviation (at least 1)."""
    tolerance: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {'ok' if self.ok else 'FAULT'}: {self.detail}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


Rows = list[tuple[list[int], list[Picture]]]


def run_checks(modules: LocatedModules, method: Method) -> list[Check]:
    """Run all checks in order; the model is restored afterwards.

    An error inside a check makes it fail. If the plain model fails, the other checks are skipped.
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
        """Whether a check may have failed because rounding changed the selection among nearly equal units."""
        text = words(modules, 16 + STEPS)
        self.text, self.forced = text[:16], text[16:]
        self.found: list[Check] = []
        self.rows: Rows = []
        # Logits of the plain model in a batch and row by row, and of the merged model.
        self.plain, self.plain_alone, self.merged = (torch.empty(0),) * 3
        self.own = 0.0
        """The deviation between two runs of the plain model."""
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
            # An unsupported combination is a refusal, not a fault.
            raise
        except Exception as error:
            self.found.append(Check(name, False, one_line(error)))

    def _draw(self) -> Rows:
        """Two images of different sizes with texts of different lengths, and a row without an image."""
        shown = pictures(self.modules.model, 2, self.seed * 100)
        return [(self.text[:4], shown[:1]), (self.text[4:6], shown[1:]), (self.text[6:12], [])]

    def _decode(self, rows: Rows, cached: bool = True) -> Tensor:
        return decode(self.modules, prompt(self.modules.model, rows), self.forced, cached)

    def _alone(self) -> Tensor:
        return torch.cat([self._decode([row]) for row in self.rows], dim=1)

    def _run_plain(self, name: str) -> Check:
        self.rows = self._draw()
        self.plain, self.plain_alone = self._decode(self.rows), self._alone()
        if not bool(self.plain.isfinite().all()):
            return Check(name, False, "its logits are not finite")
        # Not 0 with kernels whose order of summation varies.
        self.own = deviation(self._decode(self.rows), self.plain)
        return Check(name, True, f"{len(self.rows)} rows, {STEPS} decoded tokens")

    def _keep_all(self, name: str) -> Check:
        with accelerate(self.modules.model, Illava(keep=1.0)):
            found = self._decode(self.rows)
        return self._same(name, found)

    def _keep_everything(self, name: str) -> Check:
        # Detects blocks whose computation after attention differs from what illava assumes.
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
        detail = f"logits deviate by {off:.1e} but must be bit-identical to the plain model's"
        return Check(name, False, detail, off, 0.0)

    def _merge(self, name: str) -> Check:
        with accelerate(self.modules.model, self.method) as handle:
            self.merged = self._decode(self.rows)
            self.report = report = handle.report
        total = sum(picture.tokens for _, pictures in self.rows for picture in pictures)
        if report.visual_tokens != total:
            return Check(
                name, False, f"the report counts {report.visual_tokens} visual tokens, the prompt has {total}"
            )
        if not bool(self.merged.isfinite().all()):
            return Check(name, False, "logits are not finite, but the plain model's are")
        left = f"{report.final_tokens} of {total} visual tokens left"
        if handle.plan.empty:
            return Check(name, True, f"{left}: the method has no steps")
        if report.final_tokens >= total:
            return Check(
                name, False, f"{left}; the other checks need a method that drops tokens of small images"
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
            return Check(name, False, f"{len(left)} attributes were not restored: {', '.join(left[:3])}")
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
    """The largest difference of (steps, B, V) logits, in units of their standard deviation (at least 1).

    NaN counts as infinite. With ``mean``, the root mean square over the vocabulary at the worst step and row.
    """
    scale = wanted.std().clamp(min=1)
    difference = (found - wanted) / scale
    worst = difference.square().mean(-1).sqrt().max() if mean else difference.abs().max()
    return float(worst.nan_to_num(nan=float("inf")))


def _moved(one: Report, others: list[Report]) -> float:
    """The share of the units kept after the last step that the other runs do not keep."""
    first = [picture.kept[-1] for picture in one.pictures if picture.kept]
    second = [picture.kept[-1] for other in others for picture in other.pictures if picture.kept]
    if len(first) != len(second):
        return 1.0
    kept = [
        ({tuple(box) for box in a.tolist()}, {tuple(box) for box in b.tolist()})
        for a, b in zip(first, second, strict=True)
    ]
    total = sum(len(a) for a, _ in kept)
    return sum(len(a - b) for a, b in kept) / max(1, total)


def one_line(error: BaseException) -> str:
    """An error as one line: its type and its message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
