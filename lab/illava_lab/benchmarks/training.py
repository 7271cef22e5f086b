"""A training step with fewer tokens: its time, and the memory of what its backward pass needs.

A slice of a published shape with random weights: forward and backward of one batch with labels, plain and
merged to several budgets, in turn, in one process. Memory is the peak of the tensors that autograd saves,
without the weights, counted by ``torch.autograd.graph.saved_tensors_hooks``.

    python -m illava_lab.benchmarks.training --threads 1
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import illava
from illava.bench import prompts, random_weights
from illava.bench.machine import machine
from illava.bench.timing import spread
from illava_lab.benchmarks import common

ANSWER = 16
"""Tokens at the end of each row that have labels."""
PLAIN = "plain"


class SavedTensors:
    """Counts the bytes of tensors that autograd holds for the backward pass, within a ``with`` block."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
        self.now = self.peak = 0
        """Bytes held, and the most at any time."""
        self._held: Counter[int] = Counter()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Saved(tensor, self), _unpack)

    def add(self, tensor: Tensor) -> None:
        """A tensor is saved. Several may share one storage, which is counted once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self.weights:
            return
        self._held[storage.data_ptr()] += 1
        if self._held[storage.data_ptr()] == 1:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def drop(self, tensor: Tensor) -> None:
        """A saved tensor is no longer needed."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self.weights:
            return
        self._held[storage.data_ptr()] -= 1
        if not self._held[storage.data_ptr()]:
            self.now -= storage.nbytes()

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


class _Saved:
    def __init__(self, tensor: Tensor, saved: SavedTensors) -> None:
        self.tensor, self.saved = tensor.detach(), saved
        saved.add(self.tensor)

    def __del__(self) -> None:
        self.saved.drop(self.tensor)


def _unpack(packed: _Saved) -> Tensor:
    return packed.tensor


def batch_of(model: nn.Module, size: int, rows: int) -> dict[str, Tensor]:
    """Prompts with one image of noise each, whose last tokens have labels."""
    inputs = prompts.make(model.config, size=(size, size), batch=rows)
    labels = inputs["input_ids"].clone()
    labels[:, :-ANSWER] = -100
    return {**inputs, "labels": labels}


def step(model: nn.Module, inputs: dict[str, Tensor]) -> float:
    """Forward and backward; returns seconds."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    model(**inputs, use_cache=False).loss.backward()
    return time.perf_counter() - start


def run(model: nn.Module, inputs: dict[str, Tensor], keeps: list[float], rounds: int) -> list[dict[str, Any]]:
    """The rows of the result: for plain and for each budget, seconds of each round and bytes saved."""

    def merged(keep: float) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: illava.accelerate(model, keep=keep, train=True)

    variants: dict[str, Callable[[], AbstractContextManager[Any]]] = {PLAIN: nullcontext}
    variants |= {f"keep={keep:.3g}": merged(keep) for keep in keeps}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    memory: dict[str, int] = {}
    for number in range(rounds + 1):
        for name in list(variants)[:: 1 if number % 2 == 0 else -1]:
            with variants[name]():
                if number:
                    seconds[name].append(step(model, inputs))
                    continue
                # The first round, which is not timed, counts memory.
                with SavedTensors(model) as saved:
                    step(model, inputs)
                memory[name] = saved.peak
    return [
        {
            "name": name,
            "seconds": seconds[name],
            "saved_bytes": memory[name],
            "faster": vars(spread([a / b for a, b in zip(seconds[PLAIN], seconds[name], strict=True)])),
            "less_memory": memory[PLAIN] / memory[name],
        }
        for name in variants
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = common.parser(__doc__, rounds=3, shape="qwen2-vl-2b", size=336, layers=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--keep", type=float, nargs="+", default=[1 / 3, 1 / 9])
    parser.add_argument("--checkpoints", action="store_true", help="with gradient checkpointing")
    options = common.parse(parser, arguments)
    model = random_weights.build(options.shape, options.layers, torch.float32, torch.device("cpu")).train()
    if options.checkpoints:
        model.gradient_checkpointing_enable()
    inputs = batch_of(model, options.size, options.batch)
    result = {
        "shape": options.shape,
        "layers": options.layers,
        "size": options.size,
        "batch": options.batch,
        "tokens": inputs["input_ids"].shape[1],
        "weights": "random",
        "checkpoints": options.checkpoints,
        "rounds": options.rounds,
        "machine": machine(),
        "rows": run(model, inputs, options.keep, options.rounds),
    }
    common.write(options.output / "training.json", result)
    show(result)


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"one training step, {result['tokens']} tokens in each of {result['batch']} rows")
    for heading in ("", "seconds", "faster", "saved MB", "less memory"):
        table.add_column(heading)
    for row in result["rows"]:
        table.add_row(
            row["name"],
            f"{spread(row['seconds']).median:.2f}",
            common.times(row["faster"]),
            f"{row['saved_bytes'] / 1e6:,.0f}",
            f"{row['less_memory']:.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
