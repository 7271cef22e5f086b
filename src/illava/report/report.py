"""The report on the last prefill: tokens before and after every step, costs, and the kept patches."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import Tensor

from ..errors import renamed
from ..planning.cost import Cost
from ..planning.counts import StepReport, TokenCounts, shared_fields
from .traces import StepTrace


@dataclass(frozen=True)
class PictureReport:
    """The patches of one image or video."""

    kind: str
    """"image" or "video"."""
    frames: int
    all: Tensor
    """(U, 5) fp32: frame, x0, y0, x1, y1 of every encoder unit, as fractions of the image."""
    kept: tuple[Tensor, ...]
    """For every step of the report, (P, 5): the patches that survive it."""


@dataclass(frozen=True)
class Report:
    """The report on the last prefill with images or videos."""

    family: str
    method: dict[str, Any]
    visual_tokens: int
    """Visual placeholder tokens in the prompt, over the batch."""
    final_tokens: int
    """Visual tokens after the last step."""
    average_tokens: float
    """Visual tokens averaged over the LLM's layers."""
    steps: tuple[StepReport, ...]
    llm_tokens: tuple[int, ...]
    """Visual tokens in each LLM layer."""
    row_tokens: tuple[tuple[int, ...], ...]
    """The same for every row of the batch. Beams and multiple return sequences have one row each."""
    cost: Cost
    plain_cost: Cost
    """The cost of the plain model on the same prompt."""
    token_counts: tuple[TokenCounts, TokenCounts]
    """Token counts of the pass, and those of the plain model on the same prompt."""
    pictures: tuple[PictureReport, ...]
    """In the order of the batch: images, then videos. Empty if their geometry is unknown."""
    columns: tuple[Tensor, ...] = ()
    """For every LLM layer, (B, n) int64: the column in the prompt of each token that the layer processes, -1
    for padding. Hidden states and attentions of the layer are of these tokens; the logits and the last hidden
    state are of those of the last layer."""
    tile_edge: int | None = None
    """Side length of a tile in pixels if ``pictures`` are tiles (InternVL, Idefics3, SmolVLM), whose
    processors do not pass the tiling to the model. :func:`illava.report.tiles.untiled` joins the tiles."""
    traces: tuple[StepTrace | None, ...] = ()
    """For each step its input units, its survivors and what they absorbed; None for a step that makes
    images smaller. Empty without ``accelerate(trace=True)``."""

    @property
    def courses(self) -> tuple[TokenCounts, TokenCounts]:
        """Deprecated name of :attr:`token_counts`."""
        counts: tuple[TokenCounts, TokenCounts] = renamed(self, "courses", "token_counts")
        return counts

    def __str__(self) -> str:
        """A summary of a few lines."""
        lines = [
            f"{self.final_tokens} of {self.visual_tokens} visual tokens left at the end, "
            f"{self.average_tokens:.1f} on average over {len(self.llm_tokens)} LLM layers",
            f"{self.plain_cost.total / self.cost.total:.2f}x fewer FLOPs "
            f"{'to the first token' if self.cost.blocks else 'of the prefill'}, "
            f"{self.plain_cost.kv_bytes / self.cost.kv_bytes:.2f}x fewer KV cache bytes",
        ]
        lines += [f"{step.place}: {step.before} -> {step.after}" for step in self.steps]
        return "\n".join(lines)

    def __rich__(self) -> Table:
        """A table for rich's ``print``."""
        head, *rest = self._rows()
        table = Table(*head, title=str(self).splitlines()[0])
        for row in rest:
            table.add_row(*row)
        return table

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        head, *rest = self._rows()
        cells = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rest
        )
        headings = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        first, second = str(self).splitlines()[:2]
        caption = f"{html.escape(first)}<br>{html.escape(second)}"
        return (
            f"<table><caption>{caption}</caption><thead><tr>{headings}</tr></thead>"
            f"<tbody>{cells}</tbody></table>"
        )

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """The column headings, then one row per step and per cost."""
        costs = self.plain_cost, self.cost
        rows = [("", "before / plain", "after / merged", "ratio")]
        rows += [
            (s.place, str(s.before), str(s.after), f"{s.before / max(1, s.after):.2f}") for s in self.steps
        ]
        for name, values, unit in (
            ("encoder, GFLOPs", [c.encoder + c.projector for c in costs], 1e9),
            ("prefill, GFLOPs", [c.prefill for c in costs], 1e9),
            ("first token, GFLOPs", [c.total for c in costs], 1e9),
            ("KV cache, MB", [c.kv_bytes for c in costs], 1e6),
        ):
            plain, merged = (f"{value / unit:,.2f}" for value in values)
            rows.append((name, plain, merged, f"{values[0] / max(1, values[1]):.2f}"))
        return rows

    def to_json(self) -> str:
        """:meth:`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return {
            **shared_fields(self),
            "row_tokens": [list(row) for row in self.row_tokens],
            "pictures": [
                {
                    "kind": p.kind,
                    "frames": p.frames,
                    "all": p.all.tolist(),
                    "kept": [k.tolist() for k in p.kept],
                }
                for p in self.pictures
            ],
            "traces": [None if trace is None else trace.to_dict() for trace in self.traces],
        }
