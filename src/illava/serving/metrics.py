"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .jobs import Done, Job

SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
SIZES = (1, 2, 4, 8, 16, 32)
PER_SECOND = (1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """The counts of one engine, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def make(kind: Any, name: str, text: str, **options: Any) -> Any:
            return kind(f"illava_{name}", text, registry=self.registry, **options)

        said = "Requests by path and status; 499: the client left"
        self.requests = make(Counter, "requests", said, labelnames=["path", "status"])
        self.waiting = make(Gauge, "waiting_requests", "Requests that are read, prepared or queued")
        self.running = make(Gauge, "running_requests", "Requests in the current batch")
        self.cancelled = make(Counter, "cancelled", "Answers that were cancelled")
        self.batch = make(Histogram, "batch_size", "Prompts in a batch", buckets=SIZES)
        said = "Seconds from the arrival of a request to its first token"
        self.first_token = make(Histogram, "time_to_first_token_seconds", said, buckets=SECONDS)
        said = "New tokens per second of an answer after its first token"
        self.speed = make(Histogram, "tokens_per_second", said, buckets=PER_SECOND)
        self.prompt_tokens = make(Counter, "prompt_tokens", "Tokens of answered prompts")
        self.new_tokens = make(Counter, "completion_tokens", "Tokens of answers")
        self.visual = make(Counter, "visual_tokens", "Visual tokens of answered prompts before merging")
        self.dropped = make(Counter, "visual_tokens_dropped", "Visual tokens that merging dropped")

    def watch_waiting(self, count: Callable[[], int]) -> None:
        """Read the number of waiting requests from ``count``."""
        self.waiting.set_function(count)

    def began(self, batch: int) -> None:
        """A batch of prompts is being answered."""
        self.batch.observe(batch)
        self.running.set(batch)

    def answered(self, job: Job, done: Done) -> None:
        """A prompt has been answered to its end."""
        now = time.monotonic()
        assert job.first_token is not None
        self.first_token.observe(job.first_token - job.arrived)
        if done.tokens > 1 and now > job.first_token:
            self.speed.observe((done.tokens - 1) / (now - job.first_token))
        self.prompt_tokens.inc(job.prompt.length)
        self.new_tokens.inc(done.tokens)
        self.visual.inc(done.visual_before)
        self.dropped.inc(done.visual_before - done.visual_after)

    def text(self) -> bytes:
        """All counts, in the text format of Prometheus."""
        return bytes(generate_latest(self.registry))
