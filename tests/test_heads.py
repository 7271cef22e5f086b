"""Which classes of a family are accepted: every class that transformers' auto mappings have for it."""

from __future__ import annotations

import pytest
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers.models.auto import modeling_auto

import illava
from illava.models.families import family_of
from tests.tiny import config, tiny_model

ENCODER = illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=())


def classes() -> list[tuple[str, str]]:
    """(family, class) of all mappings."""
    found = set()
    for name in dir(modeling_auto):
        if name.startswith("MODEL_") and name.endswith("_NAMES"):
            for family, value in getattr(modeling_auto, name).items():
                if family in illava.supported_families():
                    found |= {(family, one) for one in ([value] if isinstance(value, str) else value)}
    return sorted(found)


def is_whole(name: str) -> bool:
    """Whether a class is the bare model, or the one that generates."""
    return name.endswith(("Model", "ForConditionalGeneration"))


def build(family: str, name: str) -> nn.Module:
    kind, made = getattr(transformers, name), config(family)
    if isinstance(made, kind.config_class):
        return kind._from_config(made)
    if kind.config_class.base_config_key == "text_config":
        return kind(made.text_config)
    return kind(kind.config_class(text_config=made))


def test_the_mappings_hold_heads() -> None:
    names = {name for _, name in classes() if not is_whole(name)}
    assert {"Gemma3ForSequenceClassification", "Qwen3_5ForTokenClassification"} <= names
    assert {family for family, name in classes() if is_whole(name)} == set(illava.supported_families())


@pytest.mark.parametrize(("family", "name"), [pair for pair in classes() if is_whole(pair[1])])
def test_the_bare_model_and_the_generating_one_are_accepted(family: str, name: str) -> None:
    illava.accelerate(build(family, name), ENCODER).remove()


@pytest.mark.parametrize(("family", "name"), [pair for pair in classes() if not is_whole(pair[1])])
def test_heads_are_refused(family: str, name: str) -> None:
    model = build(family, name)
    before = {module: dict(vars(module)) for module in model.modules()}
    with pytest.raises(illava.UnsupportedError) as error:
        illava.accelerate(model, ENCODER)
    assert "\n" not in str(error.value)
    if model.config.model_type == family:
        assert name in str(error.value)
        assert f"supported classes of {family} are" in str(error.value)
        assert "ForConditionalGeneration" in str(error.value)
    assert all(vars(module).keys() == kept.keys() for module, kept in before.items())


@pytest.mark.parametrize("name", ["ColPaliConfig", "ColQwen2Config"])
def test_retrieval_models_are_refused(name: str) -> None:
    with pytest.raises(illava.UnsupportedError, match="supported are"):
        family_of(getattr(transformers, name)())


def test_subclasses_of_users_are_accepted() -> None:
    class Mine(transformers.Qwen2VLForConditionalGeneration):
        pass

    illava.accelerate(Mine._from_config(config("qwen2_vl")), ENCODER).remove()


def test_a_head_of_ones_own_around_a_model_is_refused() -> None:
    class Reward(transformers.Qwen2VLPreTrainedModel):
        def __init__(self, made: transformers.Qwen2VLConfig) -> None:
            super().__init__(made)
            self.model, self.score = transformers.Qwen2VLModel(made), nn.Linear(32, 1)

    with pytest.raises(illava.UnsupportedError, match=r"^Reward is not supported.*Qwen2VLModel"):
        illava.accelerate(Reward(config("qwen2_vl")), ENCODER)


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
def test_heads_of_peft_are_refused(task: str) -> None:
    settings = LoraConfig(task_type=TaskType(task), target_modules=["q_proj"], r=2)
    models = [tiny_model("qwen2_vl")]
    if task == "SEQ_CLS":
        models.append(build("gemma3", "Gemma3ForSequenceClassification"))
    for model in models:
        wrapped = get_peft_model(model, settings)
        with pytest.raises(illava.UnsupportedError, match=f"{task}.*CAUSAL_LM") as error:
            illava.accelerate(wrapped, ENCODER)
        assert "\n" not in str(error.value)


def test_adapters_of_peft_on_a_head_are_refused() -> None:
    model = build("gemma3", "Gemma3ForSequenceClassification")
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(illava.UnsupportedError, match="Gemma3ForSequenceClassification"):
        illava.accelerate(wrapped, ENCODER)


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_adapters_of_weights_are_accepted(task: str | None) -> None:
    settings = LoraConfig(task_type=task, target_modules=["q_proj"], r=2)
    illava.accelerate(get_peft_model(tiny_model("qwen2_vl"), settings)).remove()
