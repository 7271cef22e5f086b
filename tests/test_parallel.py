"""Two processes: a model that is split over them is refused on both, a whole one in each is not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from transformers import AutoModelForImageTextToText

import illava
from tests.battery.test_battery import inputs_of, method_of
from tests.tiny import tiny_model

SIZE, FAMILY, SECONDS = 2, "llava", 240
pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no process groups")


def refusal(model: nn.Module) -> str:
    """What accelerate() says, with the model left as it was."""
    before = {module: vars(module).keys() for module in model.modules()}
    try:
        illava.accelerate(model, method_of(FAMILY)).remove()
    except illava.UnsupportedError as error:
        assert all(vars(module).keys() == names for module, names in before.items())
        return str(error)
    return "accepted"


def as_transformers_loads_it(folder: Path) -> str:
    model = AutoModelForImageTextToText.from_pretrained(folder / "model", tp_plan="auto")
    heads = model.model.language_model.layers[0].self_attn.q_proj.weight
    assert heads.to_local().shape[0] == heads.shape[0] // SIZE
    return refusal(model)


def as_torch_splits_it(folder: Path) -> str:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = tiny_model(FAMILY)
    attention = model.model.language_model.layers[1].self_attn
    parallelize_module(attention, init_device_mesh("cpu", (SIZE,)), {"q_proj": ColwiseParallel()})
    return refusal(model)


def as_fsdp_shards_it(folder: Path) -> str:
    from torch.distributed.fsdp import fully_shard

    model = tiny_model(FAMILY)
    fully_shard(model)
    return refusal(model)


def whole(folder: Path) -> str:
    model = tiny_model(FAMILY)
    with torch.no_grad(), illava.accelerate(model, method_of(FAMILY)) as handle:
        logits = model(**inputs_of(model, "one", "single")).logits
        assert handle.report.final_tokens < handle.report.visual_tokens
    both = [torch.empty_like(logits) for _ in range(SIZE)]
    distributed.all_gather(both, logits)
    assert torch.equal(*both)
    return refusal(model)


SPLIT = (as_transformers_loads_it, as_torch_splits_it, as_fsdp_shards_it)


def run(rank: int, folder: Path, port: int) -> None:
    """One of the processes: every way to hold a model, one after the other, since a start takes seconds."""
    torch.set_num_threads(1)
    # transformers takes the group that is there, but asks the environment for the rank.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(SIZE)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=SIZE)
    try:
        for make in (*SPLIT, whole):
            (folder / f"{make.__name__}.{rank}").write_text(make(folder))
            distributed.barrier()
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have written what accelerate() said."""
    made = tmp_path_factory.mktemp("processes")
    tiny_model(FAMILY).save_pretrained(made / "model")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = multiprocessing.spawn(run, (made, port), SIZE, join=False)
    end = time.monotonic() + SECONDS
    try:
        # One that has ended leaves the other to be waited for.
        while not started.join(1):
            assert time.monotonic() < end, f"took more than {SECONDS} seconds"
    finally:
        for process in started.processes:
            process.kill()
    return made


def said(make: Callable[[Path], str], folder: Path) -> list[str]:
    """What both processes said."""
    return [(folder / f"{make.__name__}.{rank}").read_text() for rank in range(SIZE)]


@pytest.mark.parametrize("make", SPLIT)
def test_a_model_split_over_processes_is_refused_in_each(make: Callable[[Path], str], folder: Path) -> None:
    for message in said(make, folder):
        assert message.startswith("tensor parallelism and sharded weights are not supported: each process")
        assert "load the whole model" in message
        assert "\n" not in message


def test_a_whole_model_in_each_process_is_accelerated(folder: Path) -> None:
    assert said(whole, folder) == ["accepted"] * SIZE


@pytest.mark.parametrize("kind", ["tp", "pp", "ep"])
def test_what_transformers_notes_of_a_split_model_is_enough(kind: str) -> None:
    """Quantised weights are no DTensors."""
    model = tiny_model(FAMILY)
    model.config.distributed_config = type("Config", (), {f"{kind}_size": 2})()
    assert refusal(model).startswith("tensor parallelism")
    del model.config.distributed_config
    model._tp_size = 1
    assert refusal(model) == "accepted"
    model._tp_size = 2
    assert refusal(model).startswith("tensor parallelism")
