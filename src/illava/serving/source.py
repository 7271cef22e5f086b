"""Where the model of an engine comes from. It can be sent to other processes, which the model should not."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.loading import load
from .engine import Engine
from .settings import Settings


@dataclass(frozen=True)
class Source:
    """The arguments of :func:`illava.models.loading.load`."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False

    def engine(self, settings: Settings) -> Engine:
        """Load the model and make its engine. Raises what loading and :class:`Engine` raise."""
        return Engine(*load(self.model, self.device, self.dtype, self.trust_remote_code), settings)
