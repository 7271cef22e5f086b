"""Anti-aliased masks of shapes and handwritten digits: float32 arrays in 0..1."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
OVERSAMPLE = 4


def _star() -> list[tuple[float, float]]:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))


def _heart() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 40)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16.5
    return list(zip(x, y, strict=True))


# Outlines in a frame from -1 to 1, y downwards; circle and ring are drawn as ellipses instead.
OUTLINES = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -0.95), (0.95, 0.75), (-0.95, 0.75)],
    "star": _star(),
    "cross": [
        (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
        (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
    ],
    "diamond": [(0, -1), (0.66, 0), (0, 1), (-0.66, 0)],
    "heart": _heart(),
}  # fmt: skip


def shape_mask(shape: str, size: int, turn: float) -> np.ndarray:
    """Draw ``shape`` turned by ``turn`` radians: a float32 (size, size) mask in 0..1.

    Raises ValueError for a shape that is not in ``SHAPES``.
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; the shapes are {', '.join(SHAPES)}")
    side = size * OVERSAMPLE
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    if shape in ("circle", "ring"):
        pen.ellipse((0.04 * side, 0.04 * side, 0.96 * side, 0.96 * side), fill=255)
        if shape == "ring":
            pen.ellipse((0.27 * side, 0.27 * side, 0.73 * side, 0.73 * side), fill=0)
    else:
        cos, sin = np.cos(turn), np.sin(turn)
        corners = [(x * cos - y * sin, x * sin + y * cos) for x, y in OUTLINES[shape]]
        pen.polygon([((x * 0.94 + 1) * side / 2, (y * 0.94 + 1) * side / 2) for x, y in corners], fill=255)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32) / 255


@lru_cache(maxsize=1)
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # bundled with scikit-learn: nothing is downloaded

    digits = load_digits()
    return digits.images.astype(np.float32), digits.target


def handwriting_ids(split: str) -> np.ndarray:
    """Return the sample numbers of scikit-learn's digits that ``split`` may use, int64 (n,).

    Of every 20 samples 16 are for "train", 1 for "val" and 3 for "test"; raises ValueError otherwise.
    """
    places = {"train": range(4, 20), "val": range(1), "test": range(1, 4)}
    if split not in places:
        raise ValueError(f"unknown split {split!r}; the splits are train, val and test")
    ids = np.arange(len(_handwriting()[1]))
    return ids[np.isin(ids % 20, list(places[split]))]


def handwritten_mask(sample: int, size: int, degrees: float) -> tuple[np.ndarray, int]:
    """Draw one real handwritten digit, its 8 x 8 pixels (and a margin) smoothly enlarged to ``size``.

    Returns the float32 mask in 0..1, turned by ``degrees`` and cut to the ink, and the digit, 0..9.
    """
    images, targets = _handwriting()
    image = Image.fromarray(np.pad(images[sample], 1) / 16)
    image = image.resize((size, size), Image.Resampling.BICUBIC).rotate(degrees, Image.Resampling.BILINEAR)
    mask = np.clip(np.asarray(image) * 1.15 - 0.05, 0, 1)
    rows, columns = np.nonzero(mask.max(1) > 0.1)[0], np.nonzero(mask.max(0) > 0.1)[0]
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(targets[sample])
