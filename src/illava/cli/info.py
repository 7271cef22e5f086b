"""``illava info``: what a model's config says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .. import zoo
from ..errors import InputError, UnsupportedError
from ..io.pictures import demo_names
from ..methods import Method
from ..methods.presets import default_method
from ..methods.shipped import shipped_with_config
from ..models.families import FAMILIES, family_of
from ..models.family import Family
from ..models.layout import workload
from ..models.loading import read_config
from ..models.located import LocatedModules
from ..models.processed import processed_size, takes_any_size
from ..planning.predict import skeleton
from ..plugins import INSTALL_LAB
from .console import DEFAULT_KEEP

Titled = tuple[str, Table]


def describe(model: str, trust_remote_code: bool = False) -> Iterator[Titled]:
    """Titles and tables about one model; no weights are read.

    Args:
        model: as for :func:`illava.models.loading.load`.

    Raises InputError if its config cannot be read.
    """
    config = read_config(model, trust_remote_code)
    facts = _facts()
    facts.add_row("family", config.model_type)
    try:
        family = family_of(config)
        modules = skeleton(config)
    except UnsupportedError as error:
        facts.add_row("supported", f"no: {error}")
        for name, depth in _depths(config).items():
            facts.add_row(name, depth)
        yield model, facts
        return
    facts.add_row("supported", "yes")
    facts.add_row("image encoder", f"{len(modules.blocks)} blocks")
    facts.add_row("LLM", f"{len(modules.layers)} layers")
    if takes_any_size(modules.family, modules.config):
        width, height = processed_size(modules.family, modules.config)
        tokens = workload(modules, (width, height)).visual_tokens
        facts.add_row("a square image", f"{tokens} visual tokens, at {width} x {height} pixels")
    facts.add_row("published schedule", _schedule(family))
    try:
        shipped = shipped_with_config(config)
    except ValueError as error:
        raise InputError(str(error)) from error
    if shipped is not None:
        facts.add_row("beside the weights", f"{brief(shipped.method)}, from {shipped.file}")
    yield model, facts
    if shipped is None:
        yield (
            f"Merge steps of illava-best at {DEFAULT_KEEP}, the default, on this model",
            _steps(modules, default_method()),
        )
        return
    try:
        steps = _steps(modules, shipped.method)
    except ValueError as error:
        raise InputError(f"{shipped.file}: {error}") from error
    yield f"Merge steps of {shipped.file} on this model", steps


def overview() -> Iterator[Titled]:
    """The supported families with their published schedules, and the shipped models and images."""
    families = Table(box=SIMPLE_HEAD)
    families.add_column("family", no_wrap=True, min_width=max(map(len, FAMILIES)))
    families.add_column("merging layers: share of tokens each keeps", overflow="fold")
    for name, family in sorted(FAMILIES.items()):
        families.add_row(name, _schedule(family))
    yield "Supported families and their published schedules", families
    shipped = _facts()
    shipped.add_row("models", ", ".join(zoo.names()) or f"none; {INSTALL_LAB}")
    shipped.add_row("images", ", ".join(demo_names()) or f"none; {INSTALL_LAB}")
    yield "Models and images of installed distributions", shipped


def brief(method: Method) -> str:
    """A method with the fields that differ from their defaults."""
    values = method.to_dict()
    for field in dataclasses.fields(method):
        default = field.default_factory() if callable(field.default_factory) else field.default
        if getattr(method, field.name) == default:
            values.pop(field.name, None)
    given = [f"{name}={value}" for name, value in values.items() if name not in ("method", "version")]
    return f"{method.name}({', '.join(given)})"


def _facts() -> Table:
    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _steps(modules: LocatedModules, method: Method) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in ("stage", "layer", "kept by this step", "kept in total"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    plan, left = method.plan(modules), 1.0
    after = {} if plan.projector is None else {"": plan.projector}
    stages = (("image encoder", plan.encoder), ("after the encoder", after), ("LLM", plan.llm))
    for stage, steps in stages:
        for layer, step in steps.items():
            left *= step.share
            table.add_row(stage, str(layer), f"{step.share:.1%}", f"{left:.1%}")
    return table


def _schedule(family: Family) -> str:
    """A line for each stage of the family, such as "LLM 6 7 8 of 28: 90.0% each", and one for the source."""
    schedule, lines = family.schedule, []
    for stage, name in (("encoder", "encoder"), ("llm", "LLM")):
        if getattr(family, f"{stage}_refusal"):
            continue
        layers, shares = getattr(schedule, f"{stage}_layers"), getattr(schedule, f"{stage}_keep")
        kept = [f"{share:.1%}" for share in shares]
        if len(kept) > 1 and len(set(kept)) == 1:
            kept = [kept[0], "each"]
        depth = getattr(schedule, f"{stage}_depth")
        lines.append(f"{name} {' '.join(map(str, layers))} of {depth}: {' '.join(kept)}")
    return "\n".join([*lines, f"from {schedule.source}"])


def _depths(config: Any) -> dict[str, str]:
    """The depths that the config of an unknown family states."""
    vision = getattr(config, "vision_config", None)
    blocks = getattr(vision, "depth", None) or getattr(vision, "num_hidden_layers", None)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    found = {"image encoder": blocks and f"{blocks} blocks", "LLM": layers and f"{layers} layers"}
    return {name: depth for name, depth in found.items() if depth}
