"""What training needs, in parts that travel one by one to a machine without a network.

The parts are pieces of one archive. It holds DINOv2 in bfloat16, SmolLM2 as the 4-bit GGUF file that it is
converted from (a third of the converted weights), and what training reads of the picture sets: the questions
of ``train.jsonl`` and their pictures, with licences, and the sources and records of these pictures. Sets for
local evaluation, and what serves tests, stay here.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from illava.errors import InputError

from . import cache
from .data.sets import TRAINING_SETS

PIECE, MANIFEST = "piece", "manifest.json"
GGUF = "llm.gguf"
FOLDERS = ("encoder", "llm", "data")
"""What :func:`unpack` makes: what ``train --encoder --llm --data`` reads. The last one is complete last."""
BESIDE = ("README.md", "train.jsonl")
"""Files of a picture set that travel whole, where it has them."""
SOURCES, SCENES = "sources.tsv", "scenes.jsonl"
"""Files with a line for each picture of a set, of which the lines of training pictures travel."""
MANIFEST_BYTES = 1 << 16
"""Room for the manifest in a part."""


def pack(encoder: Path, gguf: Path, data: Path, folder: Path, most: int) -> list[Path]:
    """Write the numbered folders ``1``, ``2``, ... into ``folder``, each of ``most`` bytes at most.

    Args:
        encoder: DINOv2 as transformers reads it.
        gguf: the file of SmolLM2.
        data: the folder of picture sets.
        folder: must not hold such folders; created.

    Returns the numbered folders. The same files give the same parts. Raises InputError for what is missing.
    """
    if most <= MANIFEST_BYTES:
        raise ValueError(f"most must be above {MANIFEST_BYTES} bytes, not {most}")
    if (folder / "1").exists():
        raise InputError(f"{folder}: it holds numbered folders already; give another folder")
    members = list(_members(encoder, gguf, data))
    work = folder / ".packing"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # Inside a repository, what is packed must neither be committed nor travel with every call.
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    try:
        pieces = _Pieces(work, most - MANIFEST_BYTES)
        target: Any = pieces
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for name, source in members:
                content = source.read_bytes() if isinstance(source, Path) else source
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
        pieces.close()
        for number, part in enumerate(pieces.folders, 1):
            manifest = {"number": number, "pieces": pieces.described}
            (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        return [part.rename(folder / part.name) for part in pieces.folders]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack(parts: Sequence[Path], to: Path) -> dict[str, Path]:
    """Check and join the numbered folders ``parts``, in any order, into ``to``, and convert the LLM.

    Returns the folders of :data:`FOLDERS` by name. A call that fails leaves nothing, and what a killed one
    left is replaced. Raises InputError, in one line, if a part is missing, broken or of another kit, and if
    ``to`` holds such folders.
    """
    work = to / ".unpacking"
    # The work folder is made after this check and removed last. If it is there, the folders beside it are
    # those of a call that did not end.
    for name in () if work.exists() else FOLDERS:
        if (to / name).exists():
            raise InputError(f"{to / name}: it exists already; give another folder")
    joined: Any = _Joined(_checked(parts))
    created = not to.exists()
    _clear(to, work)
    try:
        work.mkdir(parents=True)
        with tarfile.open(fileobj=joined, mode="r|") as archive:
            archive.extractall(work, filter="data")
        from .smollm2 import convert

        convert(work / GGUF, work / "llm")
        for name in FOLDERS:
            (work / name).rename(to / name)
    except BaseException:
        _clear(to, work)
        if created:
            with suppress(OSError):
                to.rmdir()
        raise
    shutil.rmtree(work, ignore_errors=True)
    return {name: to / name for name in FOLDERS}


def _clear(to: Path, work: Path) -> None:
    """Remove what a call that did not end left, the work folder last; nothing if that is not there."""
    if work.exists():
        for folder in (*(to / name for name in FOLDERS), work):
            shutil.rmtree(folder, ignore_errors=True)


# -- What travels -------------------------------------------------------------------------------------------


def _members(encoder: Path, gguf: Path, data: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Names in the archive, and files or contents."""
    for file in (encoder / "config.json", encoder / "model.safetensors", gguf):
        if not file.is_file():
            raise InputError(f"{file}: no such file; run `python -m illava_lab.real get --only-parts`")
    yield "encoder/config.json", encoder / "config.json"
    yield "encoder/model.safetensors", _in_bfloat16(encoder / "model.safetensors")
    yield GGUF, gguf
    for name in TRAINING_SETS:
        for file, source in _files_of(data / name):
            yield f"data/{name}/{file}", source


def _in_bfloat16(file: Path) -> bytes:
    import torch
    from safetensors.torch import load_file, save

    halved = {name: value.to(torch.bfloat16) for name, value in load_file(file).items()}
    return save(halved, metadata={"format": "pt"})


def _files_of(folder: Path) -> list[tuple[str, Path | bytes]]:
    """The files of a picture set that training reads, by their names in ``folder``.

    Raises InputError for one that is missing or malformed.
    """
    try:
        lines = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]
        pictures = sorted({picture for line in lines for picture in line["pictures"]})
    except OSError:
        raise InputError(f"no file {folder / 'train.jsonl'}: --data must hold {folder.name}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'train.jsonl'}: its lines are not JSON objects with pictures") from None
    for picture in pictures:
        file = folder / picture
        if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{file}: no such file in {folder}")
    beside = [name for name in BESIDE if (folder / name).is_file()]
    found: list[tuple[str, Path | bytes]] = [(name, folder / name) for name in (*beside, *pictures)]
    for name in (SOURCES, SCENES):
        if (folder / name).is_file():
            found.append((name, _lines_of(folder / name, set(pictures))))
    return found


def _lines_of(file: Path, pictures: set[str]) -> bytes:
    """The lines of a file that are about ``pictures``, and the head of a table."""
    lines = file.read_text("utf-8").splitlines(keepends=True)
    if file.name == SOURCES:
        kept = lines[:1] + [line for line in lines[1:] if line.split("\t")[0] in pictures]
    else:
        try:
            kept = [line for line in lines if json.loads(line)["image"] in pictures]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: its lines are not JSON objects with an image") from None
    return "".join(kept).encode()


# -- Pieces -------------------------------------------------------------------------------------------------


class _Pieces:
    """A file to write to that goes on in the next numbered folder when one is full."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folders: list[Path] = []
        self.described: list[dict[str, Any]] = []
        self._folder, self._most, self._left = folder, most, 0
        self._file: IO[bytes] | None = None

    def write(self, content: bytes) -> int:
        rest = memoryview(content)
        while rest:
            if not self._left:
                self._next()
            assert self._file is not None
            now, rest = rest[: self._left], rest[self._left :]
            self._file.write(now)
            self._digest.update(now)
            self._left -= len(now)
        return len(content)

    def _next(self) -> None:
        self.close()
        self.folders.append(self._folder / str(len(self.folders) + 1))
        self.folders[-1].mkdir()
        self._file = (self.folders[-1] / PIECE).open("wb")
        self._left, self._digest = self._most, hashlib.sha256()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self.described.append({"bytes": self._most - self._left, "sha256": self._digest.hexdigest()})
            self._file = None


def _checked(parts: Sequence[Path]) -> list[Path]:
    """The pieces of ``parts`` in order. Raises InputError unless they are complete and whole."""
    found: dict[int, Path] = {}
    described: list[dict[str, Any]] | None = None
    for part in parts:
        try:
            manifest = json.loads((part / MANIFEST).read_text(encoding="utf-8"))
            number, pieces = int(manifest["number"]), manifest["pieces"]
            sizes = [(int(piece["bytes"]), str(piece["sha256"])) for piece in pieces]
        except OSError:
            raise InputError(f"{part}: no {MANIFEST}; give the numbered folders that carry wrote") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{part / MANIFEST}: it is broken; copy part {part.name} again") from None
        if described not in (None, pieces) or not 1 <= number <= len(sizes):
            raise InputError(f"{part}: it is part of another kit than {parts[0]}")
        described, found[number] = pieces, part / PIECE
    if described is None:
        raise InputError("give the numbered folders that carry wrote")
    for number, piece in enumerate(described, 1):
        if number not in found:
            raise InputError(f"part {number} of {len(described)} is missing")
        _check(found[number], number, piece)
    return [found[number] for number in sorted(found)]


def _check(file: Path, number: int, piece: dict[str, Any]) -> None:
    try:
        size = file.stat().st_size
        if size != piece["bytes"]:
            why = f"{size:,} bytes instead of {piece['bytes']:,}"
        elif cache.sha256(file) != piece["sha256"]:
            why = "its content has changed"
        else:
            return
    except OSError as error:
        why = error.strerror or str(error)
    raise InputError(f"{file}: {why}; copy part {number} again")


class _Joined:
    """Several files to read as one."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = iter(files)
        self._open: IO[bytes] = io.BytesIO()

    def read(self, size: int) -> bytes:
        while not (content := self._open.read(size)):
            self._open.close()
            following = next(self._files, None)
            if following is None:
                return b""
            self._open = following.open("rb")
        return content
