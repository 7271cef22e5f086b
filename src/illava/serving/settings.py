"""The settings of a server: the model's name, what requests may choose, limits, and access."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ..errors import InputError

HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")
LEAST = {
    "max_batch": 1,
    "max_wait_ms": 0,
    "max_queue": 1,
    "max_tokens": 1,
    "max_prompt_tokens": 1,
    "max_pictures": 0,
    "max_frames": 0,
}
"""The smallest value of each whole number among the settings."""


@dataclass(frozen=True)
class Settings:
    """The settings of a server. Raises InputError for values that cannot be used."""

    name: str
    """The model's name in requests and in ``/v1/models``."""
    keep: float | None = None
    """Share of the visual tokens left at the end where a request names none; None: the method's own."""
    method: str | None = None
    """Method or preset where a request names none; None: as :func:`illava.ask.choose` has it."""
    min_keep: float = 0.0
    """Requests may choose a ``keep`` from here..."""
    max_keep: float = 1.0
    """... to here."""
    allowed_methods: tuple[str, ...] = ()
    """Methods and presets that requests may choose beside :attr:`method`."""

    temperature: float = 0.0
    """Where a request names none. 0 is greedy decoding."""
    max_tokens: int = 1024
    """New tokens that a request may ask for, and that it gets if it does not say."""
    max_prompt_tokens: int = 8192
    """Tokens of a prompt, with all its visual tokens, before any is dropped."""
    max_request_mb: float = 32
    """Megabytes (2**20 bytes) of a request's body."""
    max_picture_mb: float = 8
    """Megabytes of an encoded picture or frame."""
    max_pictures: int = 8
    """Pictures in a request."""
    max_frames: int = 32
    """Video frames in a request."""
    max_megapixels: float = 32
    """Millions of pixels of all pictures and frames of a request together."""
    timeout: float = 120
    """Seconds from the arrival of a request to the end of its answer."""

    max_batch: int = 8
    """Prompts that are answered together."""
    max_wait_ms: int = 20
    """Milliseconds that a prompt waits for others to join its batch."""
    max_queue: int = 32
    """Requests that wait: that are read, prepared or queued."""

    api_key: str | None = field(default=None, repr=False)
    """The key that requests must carry; None: none."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts, as "example.org" or "example.org:8080", from which pictures are fetched."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")
        for name in ("max_request_mb", "max_picture_mb", "max_megapixels", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.temperature <= 2:
            raise InputError(f"temperature must be from 0 to 2, got {self.temperature}")
        if not 0 <= self.min_keep <= self.max_keep <= 1:
            raise InputError(
                f"min_keep and max_keep must be from 0 to 1 in this order, got {self.min_keep} and "
                f"{self.max_keep}"
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise InputError(f"keep must be above 0 and up to 1, got {self.keep}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise InputError("the API key must be ASCII and not empty")
        for host in self.allowed_hosts:
            if not HOST.fullmatch(host):
                raise InputError(f"an allowed host must be HOST or HOST:PORT in ASCII, got {host!r}")
        if not self.name.strip():
            raise InputError("the model's name is empty")
