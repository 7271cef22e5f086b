"""``illava info --all``: every image-text-to-text model type of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..compat.versions import installed
from ..models.coverage import Coverage, coverage
from ..models.unsupported import Stage
from .console import print_table

STATES = {"yes": "yes", "no": "no", "open": "not built"}


def print_every_type(as_json: bool) -> None:
    """Print one table of supported types and one of reasons, or one JSON object."""
    found = coverage()
    if as_json:
        types = [one.to_dict() for one in found]
        typer.echo(json.dumps({"transformers": installed(), "counts": counts(found), "model_types": types}))
        return
    own = [one for one in found if one.alias_of is None]
    supported = [one for one in own if one.stages.encoder.state == "yes" or one.stages.llm.state == "yes"]
    print_table("Supported", _supported(supported))
    print_table("Not supported, and why", _reasons([one for one in own if one not in supported]))
    aliases = _plain("model type", "runs the classes of")
    for one in found:
        if one.alias_of is not None:
            aliases.add_row(one.model_type, one.alias_of)
    print_table("Aliases", aliases)
    number = counts(found)
    typer.echo(
        f"transformers {installed()}: {number['types']} model types and {number['aliases']} aliases. "
        f"Both stages: {number['both']}; one stage: {number['one']}; "
        f"could have an entry: {number['open']}; refused: {number['refused']}."
    )


def counts(found: Sequence[Coverage]) -> dict[str, int]:
    """Number of model types by what is supported; aliases are not counted elsewhere.

    "open": not supported, though an entry could support a stage. "refused": neither stage could be.
    """
    own = [one for one in found if one.alias_of is None]
    states = [{one.stages.encoder.state, one.stages.llm.state} for one in own]
    both = states.count({"yes"})
    some = sum("yes" in state for state in states)
    refused = states.count({"no"})
    return {
        "types": len(own),
        "aliases": len(found) - len(own),
        "both": both,
        "one": some - both,
        "open": len(own) - some - refused,
        "refused": refused,
    }


def _supported(found: Sequence[Coverage]) -> Table:
    table = _plain("model type", "image encoder", "LLM")
    for one in found:
        table.add_row(one.model_type, _cell(one.stages.encoder), _cell(one.stages.llm))
    return table


def _reasons(found: Sequence[Coverage]) -> Table:
    table = _plain("model type", "stage", "why")
    for one in found:
        encoder, llm = one.stages.encoder, one.stages.llm
        if encoder == llm:
            table.add_row(one.model_type, "both", _cell(encoder))
            continue
        table.add_row(one.model_type, "encoder", _cell(encoder))
        table.add_row("", "LLM", _cell(llm))
    return table


def _cell(stage: Stage) -> str:
    state = STATES[stage.state]
    return f"{state}: {stage.reason}" if stage.reason else state


def _plain(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table
