"""Picture files that are broken, unusual, or not what they claim to be."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib

from PIL import Image, PngImagePlugin

UNUSUAL = (
    ("P", "PNG"), ("1", "PNG"), ("L", "PNG"), ("I;16", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
    ("CMYK", "JPEG"), ("L", "JPEG"), ("RGBA", "WEBP"), ("P", "GIF"), ("L", "GIF"), ("RGB", "BMP"),
    ("RGB", "TIFF"), ("RGB", "PPM"), ("RGB", "ICO"), ("RGB", "TGA"), ("RGB", "EPS"),
)  # fmt: skip
"""Modes and formats of correct files that clients seldom send."""
DISGUISES = (
    b"\0", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"<svg/>", b"%PDF-1.4",
    b"PK\x03\x04" * 9,
)  # fmt: skip
"""Beginnings of files and nothing more."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def drawn(rng: random.Random, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A gradient, which is small as a file."""
    ramp = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    tint = Image.new("RGB", ramp.size, (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    return Image.blend(ramp, tint, 0.5).convert(mode)


def file(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The picture's file."""
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def good(rng: random.Random) -> tuple[bytes, str]:
    """A file that can be decoded, and its type."""
    kind = rng.choice(FORMATS)
    side = lambda: rng.choice((16, 33, 64, 96, 150))  # noqa: E731
    return file(drawn(rng, side(), side()), kind), kind.lower()


def unusual(rng: random.Random) -> tuple[bytes, str]:
    """A correct file of a kind that clients seldom send."""
    mode, kind = rng.choice(UNUSUAL)
    width, height = rng.choice([(1, 1), (1, 900), (900, 1), (2, 300), (64, 64), (63, 65), (400, 300)])
    if mode == "I;16":
        picture = drawn(rng, width, height, "L").convert("I").convert("I;16")
    else:
        picture = drawn(rng, width, height, mode)
    if kind in ("GIF", "WEBP") and rng.random() < 0.5:
        frames = [drawn(rng, width, height, mode) for _ in range(3)]
        return file(picture, kind, save_all=True, append_images=frames), kind.lower()
    return file(picture, kind), kind.lower()


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with a correct checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@functools.cache
def bomb() -> bytes:
    """30 MB of zeros, compressed."""
    return zlib.compress(bytes(30 * 2**20), 9)


def huge(rng: random.Random) -> tuple[bytes, str]:
    """A small file that would be very large in memory."""
    kind = rng.choice(("pixels", "gif", "rows", "text", "profile", "zero"))
    if kind == "gif":
        data = bytearray(file(drawn(rng, 8, 8, "P"), "GIF"))
        data[6:10] = struct.pack("<HH", 65535, rng.choice((65535, 1, 30000)))
        return bytes(data), "gif"
    width, height = rng.choice(
        [(50000, 50000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (20000, 20000), (600, 600)]
    )
    if kind == "zero":
        width, height = rng.choice([(0, 8), (8, 0), (0, 0)])
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    if kind == "text":
        parts.append(chunk(b"zTXt", b"note\0\0" + bomb()))
    if kind == "profile":
        parts.append(chunk(b"iCCP", b"note\0\0" + bomb()))
    rows = bomb() if kind == "rows" else zlib.compress(bytes(64))
    parts += [chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts), "png"


def broken(rng: random.Random) -> tuple[bytes, str]:
    """A correct file with some bytes changed, removed, added or repeated."""
    data, kind = rng.choice((good, unusual))(rng)
    return mutated(rng, data), kind


def disguised(rng: random.Random) -> tuple[bytes, str]:
    """What is no picture at all."""
    noise = rng.randbytes(rng.choice((1, 10, 3000)))
    data = rng.choice((b"", noise, *DISGUISES))
    return data, rng.choice(("png", "jpeg", "svg+xml", "webp", "x-icon"))


def commented(rng: random.Random) -> tuple[bytes, str]:
    """A correct file with a text in it that is hostile to logs and terminals."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment\x1b[2J" if rng.random() < 0.5 else "Comment", "\x00\x1b]0;x\x07\n\n" * 50)
    return file(drawn(rng, 32, 32), "PNG", pnginfo=notes), "png"


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few faults."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        if not changed:
            break
        place = rng.randrange(len(changed))
        fault = rng.randrange(5)
        if fault == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif fault == 1:
            changed[place] = rng.randrange(256)
        elif fault == 2:
            del changed[place : place + rng.choice((1, 4, len(changed)))]
        elif fault == 3:
            changed[place:place] = rng.randbytes(rng.choice((1, 8, 200)))
        else:
            changed[place:place] = changed[place : place + rng.choice((1, 16, 300))]
    return bytes(changed)


MAKERS = (good, unusual, huge, broken, broken, disguised, commented)


def any_picture(rng: random.Random) -> tuple[bytes, str]:
    """A file of any of these kinds, and the type that it claims."""
    return rng.choice(MAKERS)(rng)
