"""What illava needs of a function, and how a signature falls short of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .signatures import Signature
from .versions import installed, tested_range

Name = str | tuple[str, ...]
"""A name, or several of which one must be there."""


@dataclass(frozen=True)
class Fault:
    """One thing that illava relies on and the installed transformers does not have."""

    where: str
    """Class, function or config, e.g. "Qwen2VLDecoderLayer.forward"."""
    what: str
    """What is wrong with it, as the rest of a sentence, e.g. "lost its argument position_embeddings"."""

    def __str__(self) -> str:
        return f"{self.where} {self.what}"


@dataclass(frozen=True)
class Call:
    """What a function must offer to be hooked, replaced or called."""

    leading: tuple[Name, ...] = ()
    """Its first arguments, in order, because they are read or given by position."""
    names: tuple[Name, ...] = ()
    """Arguments read or given by name, in any order."""
    known: tuple[str, ...] | None = None
    """Further arguments that may be there. Any other is a fault, because it may hold something for each
    token that would keep its full length. None: others may be there."""
    optional: bool = False
    """Whether all arguments but ``leading`` and ``names`` must have defaults."""
    single: bool = False
    """Whether it must be callable with one argument, by position."""
    foreign: tuple[Name, ...] = ()
    """Arguments that a function from outside of transformers may lack: whoever calls it asks for them."""
    uses: tuple[Name, ...] = ()
    """Attributes, functions or keywords that its code must use, because illava acts through them."""


def call_faults(where: str, signature: Signature, call: Call) -> Iterator[Fault]:
    """How ``signature`` falls short of ``call``. ``where`` names the function."""
    spared = call.foreign if signature.home != "transformers" else ()
    asked = [name for name in (*call.leading, *call.names) if name not in spared]
    lost = [name for name in asked if not _one_of(name, signature.names)]
    for name in lost:
        yield Fault(where, f"lost its argument {_written(name)}")
    first = signature.positional[: len(call.leading)]
    if not any(name in lost for name in call.leading) and not _in_order(call.leading, first):
        expected = ", ".join(map(_written, call.leading))
        yield Fault(where, f"takes ({', '.join(first)}) first, where ({expected}) is expected")
    wanted = {
        one for name in (*call.leading, *call.names) for one in ((name,) if isinstance(name, str) else name)
    }
    if call.known is not None and not lost:
        for name in sorted(signature.names - wanted - set(call.known)):
            yield Fault(where, f"has an argument {name}, which illava does not know")
    if call.optional:
        for name in sorted(signature.required - wanted):
            yield Fault(where, f"needs an argument {name}, which illava does not give")
    if call.single and (len(signature.required) > 1 or not signature.positional):
        yield Fault(where, f"takes ({', '.join(sorted(signature.required))}), where one argument is expected")
    yield from use_faults(where, signature.uses, call.uses)


def use_faults(where: str, uses: frozenset[str] | None, wanted: tuple[Name, ...]) -> Iterator[Fault]:
    """Which of the ``wanted`` names the code of a function does not use; None if there is none to read."""
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
    """One line that names the first fault, the installed version, the tested ones, and what to do."""
    more = f" (and {len(faults) - 1} more: see `illava doctor`)" if len(faults) > 1 else ""
    return (
        f"transformers {installed()} does not fit: {faults[0]}{more}; illava is tested with transformers "
        f"{tested_range()}: install one of these, or, if this is one, report it"
    )


def attribute_faults(where: str, owner: Any, attributes: tuple[str, ...]) -> Iterator[Fault]:
    """Which attributes an object lacks; ``where`` names it."""
    for attribute in attributes:
        # Asked on the class first, so that a property is not computed.
        if not hasattr(type(owner), attribute) and not hasattr(owner, attribute):
            yield Fault(where, f"lost its attribute {attribute}")
