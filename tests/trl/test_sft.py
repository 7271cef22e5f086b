"""TRL's ``SFTTrainer`` with its own collator and fused head, against a step written by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from illava_lab.tasks import load as load_task
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer

import illava
from illava.ask import load

RATE = 0.05


class InOrder(SFTTrainer):
    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Questions with one picture and with several, and one of text alone."""
    rows: dict[str, list[Any]] = {"prompt": [], "completion": [], "images": []}
    samples = [load_task(name, "val")[i] for name in ("attribute", "multi_picture") for i in range(2)]
    for sample in [*samples, None]:
        pictures = [] if sample is None else list(sample.pictures)
        question, answer = (
            ("What is red?", "blue") if sample is None else (sample.question, sample.answers[0])
        )
        rows["prompt"].append([{"role": "user", "content": question}])
        rows["completion"].append([{"role": "assistant", "content": answer}])
        rows["images"].append(pictures)
    message = List({"role": Value("string"), "content": Value("string")})
    features = Features(prompt=message, completion=message, images=List(Image()))
    return Dataset.from_dict(rows, features=features)


def weights(model: nn.Module) -> dict[str, Tensor]:
    found = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return {name.replace(".default", ""): value for name, value in found.items()}


@pytest.mark.parametrize("checkpoints", [False, True], ids=["plain", "checkpoints"])
@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
def test_an_epoch(data: Dataset, adapters: bool, checkpoints: bool, tmp_path: Path) -> None:
    model, processor = load("zoo/S")
    model.requires_grad_(True)
    if adapters:
        torch.manual_seed(0)
        config = LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
        model = get_peft_model(model, config)
    by_hand = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(weights(model).values(), lr=RATE)
    arguments = SFTConfig(
        str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=5,
        max_grad_norm=0.0,
        gradient_checkpointing=checkpoints,
        max_length=None,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=data,
        processing_class=processor,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )
    (batch,) = trainer.get_train_dataloader()
    with illava.accelerate(by_hand, keep=1 / 3, train=True):
        logits, losses = by_hand(**batch).logits, []
        length = batch["labels"].shape[1]
        for row, place in (batch["labels"] != -100).nonzero().tolist():
            # Rows are padded after the answers, so places count from the end.
            losses.append(cross_entropy(logits[row, place - length - 1], batch["labels"][row, place]))
        expected = torch.stack(losses).mean()
        expected.backward()
    with torch.no_grad():
        for value in weights(by_hand).values():
            if value.grad is not None:
                value -= RATE * value.grad

    with illava.accelerate(trainer.model, keep=1 / 3, train=True) as handle:
        trainer.train()
        assert handle.report.final_tokens < handle.report.visual_tokens
    logged = trainer.state.log_history[0]
    assert trainer.state.global_step == 1
    assert abs(logged["loss"] - expected.item()) < 1e-3
    assert 0 <= logged["mean_token_accuracy"] <= 1
    after, wanted_weights = weights(trainer.model), weights(by_hand)
    assert after.keys() == wanted_weights.keys()
    for name, value in wanted_weights.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_whole_conversations(data: Dataset, tmp_path: Path) -> None:
    """TRL's collator gives every token a label where a conversation is not split into prompt and answer."""
    model, processor = load("zoo/S")
    whole = Dataset.from_list(
        [
            {"messages": [*row["prompt"], *row["completion"]], "images": row["images"]}
            for row in data.select([0])
        ]
    )
    arguments = SFTConfig(
        str(tmp_path),
        max_length=None,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=whole, processing_class=processor)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    with illava.accelerate(trainer.model, keep=1 / 3, train=True) as handle:
        trainer.train()
        assert handle.report.final_tokens < handle.report.visual_tokens
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.named_parameters())
