"""Where the settings come from, and the method that they name.

vLLM gives the settings of plugins to the engine only. Prompts are prepared elsewhere, with the model's
config. So the method travels in there, as the attribute :data:`ATTRIBUTE`.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from illava.errors import InputError
from illava.io.shares import parse_share
from illava.methods import Illava, Method
from illava.methods.base import method_from_dict
from illava.methods.presets import make_method

KEY = "illava"
"""Of ``--additional-config``."""
KEEP, METHOD = "ILLAVA_KEEP", "ILLAVA_METHOD"
"""The environment variables that are read where ``--additional-config`` has no settings."""
ATTRIBUTE = "illava_method"
PRESET = "illava-best"
_FIELDS = ("keep", "method", "config")


def method_of(settings: Any) -> Illava:
    """The method that settings name, without its LLM stage.

    Args:
        settings: a mapping with ``keep``, the share of visual tokens left, a number or a text such as "1/3",
            and optionally ``method``, the name of a preset or method; or with ``config``, a method with all
            its fields as in an ``illava_config.json``.

    Raises InputError for anything else, and for methods that merge elsewhere than in the encoder's blocks.
    """
    if not isinstance(settings, Mapping) or set(settings) - {*_FIELDS} or not settings:
        given = ", ".join(settings) if isinstance(settings, Mapping) else repr(settings)
        raise InputError(f"{KEY}: give keep, such as 0.33, and method; or config; got {given or 'nothing'}")
    if "config" in settings:
        if len(settings) > 1:
            raise InputError(f"{KEY}: config has all fields of a method; leave out keep and method")
        try:
            return in_encoder(method_from_dict(settings["config"]))
        except (TypeError, ValueError) as error:
            raise InputError(f"{KEY}: config: {error}") from error
    if "keep" not in settings:
        raise InputError(f"{KEY}: give keep, the share of visual tokens left, such as 0.33")
    keep, name = settings["keep"], settings.get("method", PRESET)
    share = None if isinstance(keep, bool) or not isinstance(keep, (int, float, str)) else parse_share(keep)
    if share is None:
        raise InputError(f"{KEY}: keep must lie in (0, 1], such as 0.33 or 1/3, got {keep!r}")
    if not isinstance(name, str):
        raise InputError(f"{KEY}: method must be the name of a method, such as {PRESET}, got {name!r}")
    made = make_method(name, share)
    # vLLM's attention takes no bias, so a preset has none of its sizes here.
    return in_encoder(replace(made, proportional=None) if isinstance(made, Illava) else made)


def in_encoder(method: Method) -> Illava:
    """The encoder stage of a method. Raises InputError if it has none that can run here."""
    if not isinstance(method, Illava):
        raise InputError(
            f"{KEY}: {method.name} does not merge inside the encoder's blocks; give {PRESET} or illava"
        )
    if method.llm_layers or method.llm_keep is not None:
        raise InputError(f"{KEY}: vLLM keeps one number of tokens a request: give llm_layers=[], no llm_keep")
    if method.proportional is not None:
        raise InputError(f"{KEY}: vLLM's attention knows no sizes of merged tokens: give proportional=null")
    if method.experimental:
        raise InputError(f"{KEY}: experimental options are not supported: {', '.join(method.experimental)}")
    return replace(method, llm_layers=())


def given(additional_config: Any) -> Illava | None:
    """The method of ``--additional-config``, else of the environment; None if neither has settings."""
    if isinstance(additional_config, Mapping) and KEY in additional_config:
        return method_of(additional_config[KEY])
    names = {"keep": KEEP, "method": METHOD}
    settings = {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}
    return method_of(settings) if settings else None


def stored(config: Any) -> Illava | None:
    """The method in a model's config; None for the plain model."""
    text = getattr(config, ATTRIBUTE, None)
    if text is None:
        return None
    method = method_from_dict(json.loads(text))
    assert isinstance(method, Illava)
    return method


def read_with_engine_args() -> None:
    """Let every engine config that vLLM makes from arguments carry the method in its model's config."""
    from vllm.engine.arg_utils import EngineArgs

    original = EngineArgs.create_engine_config
    if getattr(original, KEY, False):
        return

    @functools.wraps(original)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        from .limits import check_model, check_server, without_whole_graphs

        method = given(self.additional_config)
        made = original(self, *args, **kwargs)
        config = made.model_config.hf_config
        # A checkpoint's own attribute of this name is not a setting.
        setattr(config, ATTRIBUTE, None)
        if method is not None and check_model(made, method):
            check_server(made)
            without_whole_graphs(made)
            setattr(config, ATTRIBUTE, json.dumps(method.to_dict(), sort_keys=True))
        return made

    setattr(create_engine_config, KEY, True)
    EngineArgs.create_engine_config = create_engine_config
