"""What a pass holds at once: bytes of every storage that is made and not yet gone; and what it leaves."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class _Held(TorchDispatchMode):
    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.live = known, dict[int, int]()
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.live and key not in self.known:
            self.live[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def peak_bytes(model: nn.Module, run: Callable[[], Any]) -> int:
    """Bytes held at once while ``run`` runs, the model's own weights left out."""
    known = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    with _Held(known) as held:
        run()
    return held.peak


@contextmanager
def tensors_made() -> Iterator[Callable[[], list[torch.Tensor]]]:
    """A function that returns the tensors which the block has made so far and which are still alive.

    All that there is before is set aside: going through the objects of all imports takes a second.
    """

    def alive() -> list[torch.Tensor]:
        gc.collect()
        return [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]

    gc.freeze()
    try:
        yield alive
    finally:
        gc.unfreeze()
