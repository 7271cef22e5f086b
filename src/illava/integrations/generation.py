"""The generation arguments of a task, as harnesses write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError

LENGTHS = ("max_new_tokens", "max_gen_toks", "max_tokens")
SAMPLING = ("temperature", "top_p", "top_k")
PASSED = ("num_beams", "repetition_penalty", "no_repeat_ngram_size", "length_penalty", "min_new_tokens")
"""Arguments of ``generate`` that are passed on as they are."""
KNOWN = {*LENGTHS, *SAMPLING, *PASSED, "do_sample", "until"}


@dataclass(frozen=True)
class Generation:
    """How an answer is generated."""

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``generate``: greedy decoding, or sampling and its parameters; and those of ``PASSED``."""

    @property
    def beams(self) -> int:
        """Rows of the batch for each prompt."""
        return int(self.options.get("num_beams", 1))


def read_generation(given: Mapping[str, Any], max_new_tokens: int) -> Generation:
    """The generation that a task asks for; what is not ``KNOWN`` is left out.

    ``do_sample`` decides between sampling and greedy decoding. Without it, and at ``temperature`` 0, a
    ``temperature`` above 0 samples.

    Args:
        max_new_tokens: for tasks that have no limit.

    Raises InputError for values of the wrong type.
    """
    limit = next((given[name] for name in LENGTHS if given.get(name) is not None), max_new_tokens)
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit < 1 or limit != int(limit):
        raise InputError(f"max_new_tokens must be a whole number from 1 up, got {limit!r}")
    temperature = given.get("temperature")
    if temperature is not None and (not isinstance(temperature, (int, float)) or temperature < 0):
        raise InputError(f"temperature must be 0 or more, got {temperature!r}")
    sample = given.get("do_sample")
    samples = bool(temperature) if sample is None else bool(sample) and temperature != 0
    options: dict[str, Any] = {"do_sample": samples}
    for name in SAMPLING:
        # The checkpoint's own values do not apply to greedy decoding, and transformers warns of them.
        if not samples:
            options[name] = None
        elif given.get(name) is not None:
            options[name] = given[name]
    options["num_beams"] = 1
    options |= {name: given[name] for name in PASSED if given.get(name) is not None}
    return Generation(int(limit), read_stops(given.get("until")), options)


def read_stops(until: Any) -> tuple[str, ...]:
    """Stop sequences from None, a text or a list of texts. Raises InputError."""
    stops = () if until is None else (until,) if isinstance(until, str) else until
    if not isinstance(stops, (list, tuple)) or not all(isinstance(stop, str) for stop in stops):
        raise InputError(f"until must be a text or a list of texts, got {until!r}")
    return tuple(stop for stop in stops if stop)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first stop sequence."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
