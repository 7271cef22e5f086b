"""Full precision for scores, selection and merging, whatever precision the caller has set for the model.

Under autocast a product of fp32 tensors is computed in bfloat16 or float16; with TF32, or
``torch.set_float32_matmul_precision("medium")``, it keeps 10 or 7 bits of the mantissa. Both move scores by
more than the difference between neighbouring tokens, so that other tokens would be kept.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])

# Since torch 2.9 each backend has its own setting; before, one setting applied to all.
_MATMULS: tuple[Any, ...] = tuple(
    matmul
    for matmul in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    if hasattr(matmul, "fp32_precision")
)
_EXACT = ("none", "ieee")


def _device_types() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    types = ("cpu", *(() if accelerator is None else (accelerator.type,)))
    return tuple(kind for kind in types if torch.amp.is_autocast_available(kind))


_DEVICE_TYPES = _device_types()


class _ExactMatmul:
    """Context manager that keeps fp32 matrix products exact while any thread is inside it.

    The setting belongs to the process. The first thread to enter changes it and the last one to leave
    restores it, so that overlapping threads do not restore each other's setting.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._saved: tuple[str | None, list[str]] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if _is_reduced():
                self._saved = self._saved or (_global_setting(), _backend_settings())
                _set_exact()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._saved is not None and not self._inside:
                _restore(*self._saved)
                self._saved = None


def _backend_settings() -> list[str]:
    return [matmul.fp32_precision for matmul in _MATMULS]


def _global_setting() -> str | None:
    """``torch.get_float32_matmul_precision()``; None where the backends' settings contradict it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _is_reduced() -> bool:
    if _MATMULS:
        return any(setting not in _EXACT for setting in _backend_settings())
    return torch.get_float32_matmul_precision() != "highest"


def _set_exact() -> None:
    if _global_setting() is not None:
        # This sets the backends too. Setting only the backends would make the global getter raise.
        torch.set_float32_matmul_precision("highest")
        return
    for matmul in _MATMULS:
        matmul.fp32_precision = "ieee"


def _restore(overall: str | None, settings: list[str]) -> None:
    if overall is not None:
        torch.set_float32_matmul_precision(overall)
    for matmul, setting in zip(_MATMULS, settings, strict=True):
        # "none" inherits from ``torch.backends.fp32_precision``, as the backend may have done before.
        matmul.fp32_precision = "none"
        if matmul.fp32_precision != setting:
            matmul.fp32_precision = setting


_EXACT_MATMUL = _ExactMatmul()


def full_precision(function: F) -> F:
    """Decorator that disables autocast and makes fp32 matrix products exact while ``function`` runs.

    Both settings are restored afterwards, also after an error. Autocast is disabled for the CPU and the
    accelerator in this thread only. The precision of matrix products belongs to the process, so products in
    other threads are exact meanwhile too. ``torch.compile`` does not compile the function, since compiled
    code cannot change these settings.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for kind in _DEVICE_TYPES:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(_EXACT_MATMUL)
            return function(*args, **kwargs)

    uncompiled: list[Callable[..., Any]] = []

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        # Importing the compiler takes a second. If it is not imported, nothing is being compiled.
        if not uncompiled and "torch._dynamo" in sys.modules:
            uncompiled.append(torch.compiler.disable(run))  # type: ignore[no-untyped-call]
        return (uncompiled or [run])[0](*args, **kwargs)

    return cast(F, guarded)
