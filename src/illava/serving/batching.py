"""The queue of prompts, and which of them are answered together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from .jobs import Job

TOKENS_APART, SHARE_APART = 64, 1 / 4


def alike(lengths: Sequence[int]) -> bool:
    """Whether prompts of these lengths are padded to one without much waste.

    They may differ by 64 tokens, or by a quarter of the longest.
    """
    return max(lengths) - min(lengths) <= max(TOKENS_APART, SHARE_APART * max(lengths))


def choose(jobs: Sequence[Job], max_batch: int) -> list[Job]:
    """The next batch: the oldest job, and in their order those that fit it and each other."""
    batch: list[Job] = []
    for job in jobs:
        lengths = [job.prompt.length, *(other.prompt.length for other in batch)]
        if len(batch) < max_batch and (not batch or (batch[0].batches_with(job) and alike(lengths))):
            batch.append(job)
    return batch


class Waiting:
    """The queued jobs. :meth:`take` is for one thread, the rest for any."""

    def __init__(self, max_batch: int, max_wait: float) -> None:
        self.max_batch, self.max_wait = max_batch, max_wait
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self.closed = False

    def put(self, job: Job) -> None:
        """Queue a job. Raises RuntimeError after :meth:`close`."""
        job.queued = time.monotonic()
        with self._changed:
            if self.closed:
                raise RuntimeError("the queue is closed")
            self._jobs.append(job)
            self._changed.notify()

    def take(self) -> list[Job]:
        """Wait for a batch and take it: when it is full, or ``max_wait`` seconds after its oldest job came.

        Cancelled jobs are dropped. Returns [] after :meth:`close`.
        """
        with self._changed:
            while not self.closed:
                self._jobs = [job for job in self._jobs if not job.cancelled]
                batch = choose(self._jobs, self.max_batch)
                left = batch[0].queued + self.max_wait - time.monotonic() if batch else None
                if left is not None and (len(batch) == self.max_batch or left <= 0):
                    self._jobs = [job for job in self._jobs if job not in batch]
                    return batch
                self._changed.wait(left)
            return []

    def close(self) -> list[Job]:
        """Close the queue and return the jobs that were still in it."""
        with self._changed:
            self.closed, left, self._jobs = True, self._jobs, []
            self._changed.notify_all()
        return left
