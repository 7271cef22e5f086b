"""Distinguishes videos from images by their first bytes, since file extensions are unreliable."""

from __future__ import annotations

import os
import re

HEAD = 512
"""Number of bytes that :func:`starts_a_video` reads."""
_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG-1 and -2 without a container; Pillow mistakes it for an image
    b"FLV\x01",
    b"OggS",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF, WMV
    b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
    b"YUV4MPEG2",
    b"DKIF",  # IVF
)
_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""First atoms of QuickTime files older than MP4."""
_STILLS = (b"avif", b"avis", b"mif1", b"msf1", b"crx ")
"""Brands of MP4 files that hold images. Those of HEIF share their first letters and are not listed."""


def starts_a_video(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a video, judged by its container format."""
    if head.startswith(_STARTS) or re.match(rb"RIFF....AVI[ X\x19]", head, re.DOTALL):
        return True
    kind, brand = head[4:8], head[8:12]
    if kind == b"ftyp":
        return brand not in _STILLS and not brand.startswith((b"hei", b"hev"))
    # MPEG transport streams have a G every 188 bytes; those of cameras have 4 bytes before each packet.
    packets = head[0:377:188] == b"GGG" or head[4:390:192] == b"GGG"
    return kind in _ATOMS or (packets and not head.startswith(b"GIF8"))


def is_video_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a video by its first bytes; False if it cannot be read."""
    try:
        # Opening a pipe would block.
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return starts_a_video(file.read(HEAD))
    except (OSError, ValueError):
        return False
