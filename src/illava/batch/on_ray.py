"""Hands chunks out with Ray Data to workers, each of which loads and accelerates the model once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError, UnsupportedError
from ..serving.cluster import connected, resources
from ..serving.settings import Settings
from ..serving.source import Source
from .files import Line
from .worker import Outcome, Worker

RETRIES = 3
"""How often a chunk is tried again whose worker died, before the run gives up."""


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
    ) -> Iterator[Outcome]:
        """Yield what became of each chunk, as soon as it is answered.

        Workers read IN and its pictures themselves: on a cluster they lie at the same path on all machines.
        Raises InputError for what the workers refuse, and if one dies again and again.
        """
        with connected(self.address):
            import ray

            _quiet(ray.data)
            each = resources(self.count, source.device, "--workers")
            # A block for each chunk: its outcome is there as soon as it is done.
            items = [json.dumps([asdict(line) for line in chunk]) for chunk in planned]
            found = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Actor,
                fn_constructor_args=(source, settings, path),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=self.count),
                max_restarts=-1,
                max_task_retries=RETRIES,
                **each,
            )
            try:
                for batch in found.iter_batches(batch_size=None, prefetch_batches=0):
                    for text in batch["outcome"]:
                        yield _outcome(str(text))
            except ray.exceptions.RayError as error:
                raise InputError(f"the workers failed: {' '.join(str(error).split())[-500:]}") from error


class _Actor:
    """What Ray Data runs in a worker: texts in, texts out."""

    def __init__(self, source: Source, settings: Settings, path: Path) -> None:
        self.refusal: str | None = None
        try:
            self.worker = Worker(source, settings, path)
        except (InputError, UnsupportedError) as error:
            # Raised here it would be one of many errors of Ray, and tried again.
            self.refusal = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"outcome": [self._answer(str(text)) for text in batch["item"]]}

    def _answer(self, text: str) -> str:
        if self.refusal is not None:
            return json.dumps({"refusal": self.refusal})
        try:
            return json.dumps(asdict(self.worker.answer([Line(**line) for line in json.loads(text)])))
        except OSError as error:
            path = self.worker.path
            said = f"{path}: a worker cannot read it: {error.strerror or error}; all machines need it there"
            return json.dumps({"refusal": said})


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
