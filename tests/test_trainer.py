"""``transformers.Trainer`` on an accelerated model, against a step by hand on answers fed to the cache."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

import illava
from tests.test_labels import ANSWERS, Row, by_cache, inputs_of, rows_of
from tests.tiny import pictures, tiny_model

RATE = 0.5


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def wrapped(name: str, adapters: bool) -> nn.Module:
    model = tiny_model(name)
    if not adapters:
        return model
    torch.manual_seed(0)
    config = LoraConfig(
        target_modules=["q_proj", "v_proj", "qkv"], r=2, lora_alpha=2, init_lora_weights=False
    )
    return get_peft_model(model, config)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("checkpoints", [False, True], ids=["plain", "checkpoints"])
@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "gemma3"])
def test_an_epoch(name: str, adapters: bool, checkpoints: bool, tmp_path: Path) -> None:
    """Two batches, padded, with a row of text alone, accumulated to one step of plain gradient descent."""
    model = wrapped(name, adapters)
    bare = model.get_base_model() if adapters else model
    rows: list[Row] = [*rows_of(bare), ([17, 18], pictures(bare, 1), ANSWERS[0])]
    method = illava.Illava(
        encoder_layers=(1,), encoder_keep=0.6, llm_layers=(2,), llm_keep=0.6, reduce="fold"
    )

    by_hand = copy.deepcopy(model)
    inner = by_hand.get_base_model() if adapters else by_hand
    with illava.accelerate(by_hand, method):
        expected = by_cache(inner, rows)
        expected.backward()
    with torch.no_grad():
        for value in trained_parameters(by_hand).values():
            if value.grad is not None:
                value -= RATE * value.grad

    optimizer = torch.optim.SGD(trained_parameters(model).values(), lr=RATE)
    options: dict[str, Any] = dict(gradient_checkpointing=True) if checkpoints else {}
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda batch: inputs_of(bare, batch),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )
    before = {name: value.detach().clone() for name, value in trained_parameters(model).items()}
    with illava.accelerate(model, method, train=True) as handle:
        trainer.train()
        assert handle.report.final_tokens < handle.report.visual_tokens
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert trainer.state.global_step == 1
    assert abs(logged - expected.item()) < 1e-3  # Trainer rounds what it logs
    moved = 0
    for name, value in trained_parameters(by_hand).items():
        found: Tensor = trained_parameters(model)[name]
        torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-4, msg=name)
        moved += not torch.equal(found, before[name])
    assert moved > len(before) / 2


def test_evaluation_of_a_trainer(tmp_path: Path) -> None:
    model = tiny_model("qwen2_vl")
    rows = rows_of(model)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=3,
        remove_unused_columns=False,
        prediction_loss_only=True,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    with illava.accelerate(model, keep=1 / 3, train=True), torch.no_grad():
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            eval_dataset=rows,
            data_collator=lambda batch: inputs_of(model, batch),
        )
        found = trainer.evaluate()["eval_loss"]
        assert abs(found - float(by_cache(model, rows))) < 1e-5
