"""What illava requires of a function, and the faults of a signature that does not meet it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .signatures import Signature
from .versions import installed, tested_range

Name = str | tuple[str, ...]
"""A name, or alternative names of which one must be present."""


@dataclass(frozen=True)
class Fault:
    """Something that illava relies on and that the installed transformers lacks."""

    where: str
    """Class, function or config, e.g. "Qwen2VLDecoderLayer.forward"."""
    what: str
    """What is wrong with it, as a predicate, e.g. "lost its argument position_embeddings"."""

    def __str__(self) -> str:
        return f"{self.where} {self.what}"


@dataclass(frozen=True)
class Call:
    """The requirements for hooking, replacing or calling a function."""

    leading: tuple[Name, ...] = ()
    """The first arguments, in order, which illava reads or passes by position."""
    names: tuple[Name, ...] = ()
    """Arguments that illava reads or passes by name, in any order."""
    known: tuple[str, ...] | None = None
    """Further arguments that are allowed. Any other argument is a fault, because it may hold a tensor with
    one entry per token, which illava would not shorten. None allows all."""
    optional: bool = False
    """Whether all arguments except ``leading`` and ``names`` must have defaults."""
    single: bool = False
    """Whether the function must be callable with one positional argument."""
    foreign: tuple[Name, ...] = ()
    """Arguments that a function outside transformers may lack, since its callers do without them."""
    uses: tuple[Name, ...] = ()
    """Attributes, functions or keywords that the function must use, since illava replaces them."""


def call_faults(where: str, signature: Signature, call: Call) -> Iterator[Fault]:
    """The faults of ``signature`` against ``call``. ``where`` is the name of the function in messages."""
    exempt = call.foreign if signature.home != "transformers" else ()
    required = [name for name in (*call.leading, *call.names) if name not in exempt]
    missing = [name for name in required if not _one_of(name, signature.names)]
    for name in missing:
        yield Fault(where, f"lost its argument {_written(name)}")
    first = signature.positional[: len(call.leading)]
    if not any(name in missing for name in call.leading) and not _in_order(call.leading, first):
        expected = ", ".join(map(_written, call.leading))
        yield Fault(where, f"takes ({', '.join(first)}) first, expected ({expected})")
    known = {
        one for name in (*call.leading, *call.names) for one in ((name,) if isinstance(name, str) else name)
    }
    if call.known is not None and not missing:
        for name in sorted(signature.names - known - set(call.known)):
            yield Fault(where, f"has an unknown argument {name}")
    if call.optional:
        for name in sorted(signature.required - known):
            yield Fault(where, f"requires an argument {name}, which illava does not pass")
    if call.single and (len(signature.required) > 1 or not signature.positional):
        yield Fault(where, f"takes ({', '.join(sorted(signature.required))}), expected one argument")
    yield from use_faults(where, signature.uses, call.uses)


def use_faults(where: str, uses: frozenset[str] | None, wanted: tuple[Name, ...]) -> Iterator[Fault]:
    """The names among ``wanted`` that a function does not use. ``uses``: None if its code cannot be read."""
    for name in wanted:
        if uses is not None and not _one_of(name, uses):
            yield Fault(where, f"no longer uses {_written(name)}")


def _one_of(name: Name, among: frozenset[str]) -> bool:
    return name in among if isinstance(name, str) else any(one in among for one in name)


def _in_order(wanted: tuple[Name, ...], found: tuple[str, ...]) -> bool:
    return len(found) == len(wanted) and all(
        _one_of(n, frozenset([f])) for n, f in zip(wanted, found, strict=True)
    )


def _written(name: Name) -> str:
    return name if isinstance(name, str) else " or ".join(name)


def refusal(faults: list[Fault]) -> str:
    """One line with the first fault, the installed and the tested releases, and what to do."""
    more = f" (and {len(faults) - 1} more: see `illava doctor`)" if len(faults) > 1 else ""
    return (
        f"transformers {installed()} is not compatible: {faults[0]}{more}; install a tested release "
        f"({tested_range()}), or report this if yours is one"
    )


def attribute_faults(where: str, owner: Any, attributes: tuple[str, ...]) -> Iterator[Fault]:
    """The attributes that an object lacks. ``where`` is the name of the object in messages."""
    for attribute in attributes:
        # Look at the class first, so that a property is not evaluated.
        if not hasattr(type(owner), attribute) and not hasattr(owner, attribute):
            yield Fault(where, f"lost its attribute {attribute}")
