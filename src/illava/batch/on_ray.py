"""Hands chunks out with Ray Data to workers, each of which loads and accelerates the model once."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError, UnsupportedError
from ..serving.cluster import connected, resources, without_bars
from ..serving.settings import Settings
from ..serving.source import Source
from .files import Line
from .worker import Outcome, Worker

TRIES = 3
"""How often a chunk is tried whose workers die, before its rows count as bad."""


class Workers:
    """Workers under Ray.

    Args:
        count: their number.
        address: as :func:`illava.serving.cluster.connected` takes it.
    """

    def __init__(self, count: int, address: str | None = None) -> None:
        self.count, self.address = count, address

    def answer(
        self, source: Source, settings: Settings, path: Path, planned: Sequence[Sequence[Line]]
    ) -> Generator[Outcome, None, None]:
        """Yield what became of each chunk, as soon as it is answered.

        Workers read IN and its pictures themselves: on a cluster they lie at the same path on all machines.
        Ray starts a worker that died again, and hands its chunk out once more. Raises InputError for what the
        workers refuse.
        """
        with connected(self.address):
            import ray

            _quiet(ray.data)
            each = resources(self.count, source.device, "--workers")
            # A block for each chunk: its outcome is there as soon as it is done.
            items = [
                json.dumps([number, [asdict(line) for line in lines]]) for number, lines in enumerate(planned)
            ]
            tries = ray.remote(num_cpus=0, scheduling_strategy=_here())(_tries()).remote()
            found = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Actor,
                fn_constructor_args=(source, settings, path, tries),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=self.count),
                **each,
            )
            try:
                for batch in found.iter_batches(batch_size=None, prefetch_batches=0):
                    for text in batch["outcome"]:
                        yield _outcome(str(text))
            except ray.exceptions.RayError as error:
                raise InputError(f"the workers failed: {' '.join(str(error).split())[-500:]}") from error


def _here() -> Any:
    """Where this process runs: the run ends with this machine, and must not end with another one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _tries() -> Any:
    """The class of a process that outlives the workers and counts how often each chunk was begun."""

    # Inside a function it is sent as it is: a process that imports this module would hold all of torch.
    class Tries:
        def __init__(self) -> None:
            self.counts: dict[int, int] = {}

        def begin(self, chunk: int) -> int:
            self.counts[chunk] = self.counts.get(chunk, 0) + 1
            return self.counts[chunk]

    return Tries


class _Actor:
    """What Ray Data runs in a worker: texts in, texts out."""

    def __init__(self, source: Source, settings: Settings, path: Path, tries: Any) -> None:
        without_bars()
        self.tries, self.refusal = tries, ""
        try:
            self.worker = Worker(source, settings, path)
        except (InputError, UnsupportedError) as error:
            # Raised here it would be one of many errors of Ray, and tried again.
            self.refusal = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"outcome": [json.dumps(self._answer(*json.loads(str(text)))) for text in batch["item"]]}

    def _answer(self, chunk: int, places: list[dict[str, Any]]) -> dict[str, Any]:
        import ray

        if self.refusal:
            return {"refusal": self.refusal}
        lines = [Line(**place) for place in places]
        try:
            if ray.get(self.tries.begin.remote(chunk)) > TRIES:
                return asdict(
                    self.worker.refuse(lines, f"{TRIES} workers died while they answered its chunk")
                )
            return asdict(self.worker.answer(lines))
        except OSError as error:
            path, reason = self.worker.path, error.strerror or error
            return {"refusal": f"{path}: a worker cannot read it: {reason}; all machines need it there"}


def _outcome(text: str) -> Outcome:
    fields = json.loads(text)
    if "refusal" in fields:
        raise InputError(fields["refusal"])
    return Outcome(**fields)


def _quiet(data: Any) -> None:
    """Leave progress and messages to the command line."""
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
