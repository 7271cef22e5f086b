"""What the settings mean, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoints import picture
from illava_vllm.limits import check_server, without_whole_graphs
from illava_vllm.schedule import schedule_of
from illava_vllm.settings import given, method_of
from vllm.config import CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY

from illava.errors import InputError, UnsupportedError
from illava.methods import Illava


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"keep": 0.33}, replace(Illava.best(0.33), proportional=None)),
        ({"keep": "1/3"}, replace(Illava.best(1 / 3), proportional=None)),
        ({"keep": 0.5, "method": "illava"}, Illava(keep=0.5)),
        (
            {
                "config": {
                    "method": "illava",
                    "version": 2,
                    "encoder_layers": [2, 3],
                    "encoder_keep": [0.5, 0.8],
                }
            },
            Illava(encoder_layers=(2, 3), encoder_keep=(0.5, 0.8)),
        ),
    ],
)
def test_methods(settings: dict[str, Any], method: Illava) -> None:
    assert method_of(settings) == replace(method, llm_layers=())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give keep"),
        ("0.5", "give keep"),
        ({"share": 0.5}, "give keep"),
        ({"method": "illava"}, "give keep"),
        ({"keep": 0}, r"must lie in \(0, 1\]"),
        ({"keep": True}, r"must lie in \(0, 1\]"),
        ({"keep": "half"}, r"must lie in \(0, 1\]"),
        ({"keep": 0.5, "method": "fastest"}, "unknown method"),
        ({"config": Illava.best(0.5).to_dict()}, "knows no sizes of merged tokens"),
        ({"keep": 0.5, "method": "fastv"}, "does not merge inside the encoder"),
        ({"keep": 0.5, "method": 3}, "name of a method"),
        ({"keep": 0.5, "method": "illava-authors-code"}, "experimental"),
        ({"keep": 0.5, "config": {}}, "leave out"),
        ({"config": {"method": "illava", "version": 2, "llm_layers": [2], "llm_keep": 0.5}}, "llm_layers=[]"),
        ({"config": {"method": "illava", "version": 2, "depth": 2}}, "no field"),
    ],
)
def test_refused_settings(settings: Any, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("[]", r"\[\]")) as error:
        method_of(settings)
    assert "\n" not in str(error.value)


def test_the_environment_comes_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given({}) is None
    monkeypatch.setenv("ILLAVA_KEEP", "1/4")
    assert given({"other": 1}) == method_of({"keep": 0.25})
    monkeypatch.setenv("ILLAVA_METHOD", "illava")
    assert given({}) == method_of({"keep": 0.25, "method": "illava"})
    assert given({"illava": {"keep": 0.5}}) == method_of({"keep": 0.5})


def test_the_method_travels_with_the_config(checkpoint: Callable[[str], Path]) -> None:
    def config(**options: Any) -> Any:
        folder = str(checkpoint("qwen2_vl"))
        return EngineArgs(folder, enforce_eager=True, max_model_len=512, **options).create_engine_config()

    made = config(additional_config={"illava": {"keep": 0.5}})
    schedule = schedule_of(made.model_config.hf_config)
    assert schedule is not None
    # The middle of six blocks; 48 units of each of two frames.
    assert list(schedule.steps) == [2, 4, 5]
    assert schedule.left([2, 12, 16]) == [24, 24]
    for settings in ({}, {"illava": {"keep": 1}}):
        assert schedule_of(config(additional_config=settings).model_config.hf_config) is None
    # Settings of the checkpoint itself are none.
    own = {"illava_method": "{}"}
    assert schedule_of(config(hf_overrides=own).model_config.hf_config) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensor_parallel_size": 2}, "several devices"),
        ({"video_pruning_rate": 0.5}, "video-pruning-rate"),
        ({"enable_mm_embeds": True}, "enable-mm-embeds"),
        ({"language_model_only": True}, "without pictures"),
        ({"compilation_config": {"compile_mm_encoder": True}}, "compile_mm_encoder"),
        ({"compilation_config": {"cudagraph_mm_encoder": True}}, "cudagraph_mm_encoder"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str, checkpoint: Callable[[str], Path]) -> None:
    def config(keep: float) -> Any:
        arguments = {"enforce_eager": True, "max_model_len": 512, **options}
        settings = {"illava": {"keep": keep}}
        return EngineArgs(
            str(checkpoint("qwen2_vl")), additional_config=settings, **arguments
        ).create_engine_config()

    config(1)
    with pytest.raises(UnsupportedError, match=words) as error:
        config(0.5)
    assert "\n" not in str(error.value)


def test_hashes_differ_with_the_setting(checkpoint: Callable[[str], Path]) -> None:
    """Of the same picture, whether vLLM or the client names it."""
    folder, found = str(checkpoint("qwen2_vl")), set()
    for settings in (None, {"keep": 0.5}, {"keep": 0.4}, {"keep": 0.5, "method": "illava"}, {"keep": 1}):
        more = {} if settings is None else {"additional_config": {"illava": settings}}
        made = EngineArgs(folder, enforce_eager=True, max_model_len=512, **more).create_engine_config()
        processor = MULTIMODAL_REGISTRY.create_processor(made.model_config)
        items = processor.info.parse_mm_data({"image": picture(64, 48, 1)})
        prompt = processor.info.get_tokenizer().encode("<|image_pad|>")
        for uuids in (None, {"image": ["name"]}):
            got = processor(prompt, items, uuids)
            found.add((got["mm_hashes"]["image"][0], len(got["prompt_token_ids"])))
    lengths = sorted(length for _, length in found)
    # The plain model twice, under one hash.
    assert lengths == [19, 19, 24, 24, 24, 24, 48, 48]
    assert len({one for one, _ in found}) == 8


def test_steps_in_two_batches_are_refused(checkpoint: Callable[[str], Path]) -> None:
    """Which a CPU never makes, so after its config."""
    made = EngineArgs(
        str(checkpoint("qwen2_vl")), enforce_eager=True, max_model_len=512
    ).create_engine_config()
    check_server(made)
    made.parallel_config.enable_dbo = True
    with pytest.raises(UnsupportedError, match="enable-dbo"):
        check_server(made)


@pytest.mark.parametrize(
    ("given_mode", "left"),
    [
        ("NONE", "NONE"),
        ("PIECEWISE", "PIECEWISE"),
        ("FULL_AND_PIECEWISE", "PIECEWISE"),
        ("FULL_DECODE_ONLY", "NONE"),
    ],
)
def test_graphs_of_the_whole_model(given_mode: str, left: str) -> None:
    """Modes that a CPU never has, so without an engine's config."""
    compilation = SimpleNamespace(cudagraph_mode=CUDAGraphMode[given_mode])
    without_whole_graphs(SimpleNamespace(compilation_config=compilation))
    assert compilation.cudagraph_mode == CUDAGraphMode[left]
