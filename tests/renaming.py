"""Other releases of transformers, made of the installed one: functions with other arguments, other bodies."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from torch import nn

import illava
from illava.compat import TESTED, versions
from tests.tiny import LLM_ONLY, RECURRENT, tiny_model

CACHE_NAMES = ("cache", "past_key_values")


def renamed(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """The same function, one argument of which goes by another name, in its code and its signature."""
    inner = inspect.unwrap(function)
    code = inner.__code__
    assert old in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    def put(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    code = code.replace(co_varnames=put(code.co_varnames), co_cellvars=put(code.co_cellvars))
    made = FunctionType(code, inner.__globals__, inner.__name__, inner.__defaults__, inner.__closure__)
    made.__kwdefaults__ = inner.__kwdefaults__
    return made


def cache_name(function: Callable[..., Any]) -> str:
    """What the installed release calls the cache in a function."""
    return next(name for name in CACHE_NAMES if name in inspect.signature(function).parameters)


def with_arguments(*names: str) -> Callable[..., Any]:
    """A function with these arguments, none of which has a default."""
    space: dict[str, Any] = {}
    exec(f"def made({', '.join(names)}): pass", space)
    return space["made"]  # type: ignore[no-any-return]


@functools.cache
def model_of(family: str) -> nn.Module:
    return tiny_model(family)


def method_of(family: str) -> illava.Illava:
    """A method that acts in the encoder and, where it can, in the LLM."""
    llm = {} if family in RECURRENT else {"llm_layers": (3,), "llm_keep": 0.7}
    encoder = () if family in LLM_ONLY else (1, 3)
    return illava.Illava(encoder_layers=encoder, encoder_keep=0.7, **{"llm_layers": (), **llm})


def refused(model: nn.Module, family: str, *words: str) -> str:
    """That acceleration is refused in one line with these words, and leaves nothing behind."""
    with pytest.raises(illava.UnsupportedError) as error:
        illava.accelerate(model, method_of(family)).remove()
    text = str(error.value)
    for word in (*words, f"transformers {versions.installed()}", f"{TESTED[0]} to {TESTED[1]}"):
        assert word in text
    assert "\n" not in text
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return text
