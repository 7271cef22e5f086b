"""Procedurally drawn scenes: coloured shapes, digits and words on plain backgrounds."""

from dataclasses import dataclass, field

import numpy as np

from .glyphs import SHAPES, handwriting_ids, handwritten_mask, shape_mask, text_mask

COLOURS = {
    "red": (220, 35, 35),
    "green": (40, 165, 60),
    "blue": (40, 75, 225),
    "yellow": (240, 215, 25),
    "purple": (125, 40, 165),
    "orange": (250, 135, 20),
    "pink": (250, 135, 195),
    "cyan": (35, 205, 220),
}
SPLITS = ("train", "val", "test")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# fmt: off
TEST_WORDS = (
    "CAT", "DOG", "SUN", "MOON", "TREE", "FISH", "BIRD", "LAMP", "BOOK", "DOOR", "HAND", "FOOT", "MILK",
    "RAIN", "SNOW", "WIND", "ROAD", "SHIP", "BEAR", "WOLF", "KING", "ZOO", "BOX", "JAM", "EGG", "ICE", "VAN",
    "PEN", "CUP", "HAT", "KEY", "MAP", "NET", "OWL", "PIG", "QUIZ", "RUG", "TEA", "USB", "VEST", "YAK", "ZIP",
)
# fmt: on
NOT_TEST = frozenset(TEST_WORDS)


@dataclass(frozen=True)
class Item:
    """One thing in a scene. ``box`` is (left, top, right, bottom) in pixels, right and bottom exclusive."""

    kind: str  # "shape", "digit" or "word"
    name: str  # "star", "7" or "CAT"
    box: tuple[int, int, int, int]
    colour: str | None = None  # a key of COLOURS for shapes, None for ink
    writing: str | None = None  # "print" or "hand" for digits
    sample: int | None = None  # number of the handwriting sample
    parts: tuple[tuple[int, int, int, int], ...] = ()  # boxes of a word's letters


@dataclass
class Scene:
    """A uint8 (size, size, 3) RGB picture, its float (size, size) ink in 0..1 and the items drawn into it."""

    picture: np.ndarray
    ink: np.ndarray
    items: list[Item] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Item]:
        """Return the items of ``kind``, in drawing order."""
        return [item for item in self.items if item.kind == kind]


def scene_rng(seed: int, split: str, *place: int) -> np.random.Generator:
    """Return the generator of one scene: a pure function of seed, split and place (for example stage, step).

    Splits get streams of their own. Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    return np.random.default_rng([seed, SPLITS.index(split), *place])


def draw_scene(rng: np.random.Generator, size: int, split: str) -> Scene:
    """Draw a scene of ``size`` x ``size`` pixels (a multiple of 16, at least 48).

    Holds up to 5 shapes (as many as find a place), at most one digit and at most one word; ``split``
    decides which handwriting samples and words may appear. Raises ValueError for a size that does not fit.
    """
    if size % 16 or size < 48:
        raise ValueError(f"size must be a multiple of 16 and at least 48 pixels, not {size}")
    dark = rng.random() < 0.4
    scene = Scene(_background(rng, size, dark), np.zeros((size, size), np.float32))
    small = size < 160
    with_digit = rng.random() < (0.3 if small else 0.5)
    with_word = rng.random() < 0.25 if not (small and with_digit) else False
    most = 3 if small and (with_digit or with_word) else 5
    n_shapes = int(rng.integers(1, most + 1))
    if with_word:
        _write_word(scene, rng, split, dark)
    if with_digit:
        _write_digit(scene, rng, split, dark)
    pool = rng.choice(SHAPES, 2, replace=False) if rng.random() < 0.4 else np.array(SHAPES)
    full = n_shapes + 2 * len(scene.items)
    largest = 48 if not small or full < 3 else 40 if full == 3 else 32
    for _ in range(n_shapes):
        _draw_shape(scene, rng, str(rng.choice(pool)), largest)
    noise = rng.normal(0, rng.uniform(1, 7), scene.picture.shape)
    scene.picture = np.clip(scene.picture + noise, 0, 255).round().astype(np.uint8)
    return scene


def _background(rng: np.random.Generator, size: int, dark: bool) -> np.ndarray:
    """A tinted plain ground with a slight linear gradient, float64 (size, size, 3)."""
    base = rng.uniform(15, 60) if dark else rng.uniform(195, 245)
    ground = base + rng.uniform(-12, 12, 3)
    y, x = np.mgrid[:size, :size] / size - 0.5
    slope = rng.uniform(-25, 25, 2)
    return ground + (y * slope[0] + x * slope[1])[..., None]


def _ink(rng: np.random.Generator, dark: bool) -> np.ndarray:
    """A slightly tinted near-black or near-white, whichever stands out: never a shape's colour."""
    level = rng.uniform(185, 215) if dark else rng.uniform(0, 30)
    return level + rng.uniform(0, 40, 3)


def _free_place(
    scene: Scene, rng: np.random.Generator, width: int, height: int, gap: int = 3
) -> tuple[int, int] | None:
    """Find (left, top) for a box that keeps ``gap`` pixels from all others, or None after 60 tries."""
    size = scene.picture.shape[0]
    if max(width, height) > size - 2:
        return None
    for left, top in rng.integers(1, (size - width, size - height), (60, 2)):
        if all(
            left >= item.box[2] + gap or left + width + gap <= item.box[0]
            or top >= item.box[3] + gap or top + height + gap <= item.box[1]
            for item in scene.items
        ):  # fmt: skip
            return int(left), int(top)
    return None


def _paint(
    scene: Scene, mask: np.ndarray, left: int, top: int, colour: np.ndarray
) -> tuple[int, int, int, int]:
    """Blend ``colour`` (RGB 0..255) through ``mask`` into the picture; returns the box painted."""
    height, width = mask.shape
    region = scene.picture[top : top + height, left : left + width]
    region += mask[..., None] * (colour - region)
    scene.ink[top : top + height, left : left + width] = mask
    return left, top, left + width, top + height


def _draw_shape(scene: Scene, rng: np.random.Generator, shape: str, largest: int) -> None:
    size = int(rng.integers(28, largest + 1))
    colour = str(rng.choice(list(COLOURS)))
    place = _free_place(scene, rng, size, size)
    if place is None:  # the picture is full: leave this one out, the answers follow what was drawn
        return
    mask = shape_mask(shape, size, rng.uniform(-0.2, 0.2))
    tone = np.clip(np.array(COLOURS[colour]) + rng.uniform(-14, 14, 3), 0, 255)
    scene.items.append(Item("shape", shape, _paint(scene, mask, *place, tone), colour))


def _write_digit(scene: Scene, rng: np.random.Generator, split: str, dark: bool) -> None:
    ink = _ink(rng, dark)
    if rng.random() < 0.6:
        sample = int(rng.choice(handwriting_ids(split)))
        mask, digit = handwritten_mask(sample, int(rng.integers(46, 62)), rng.uniform(-8, 8))
        writing = "hand"
    else:
        sample, digit, writing = None, int(rng.integers(10)), "print"
        mask, _ = text_mask(str(digit), int(rng.integers(36, 60)), int(rng.integers(0, 3)))
    place = _free_place(scene, rng, mask.shape[1], mask.shape[0])
    if place is not None:
        box = _paint(scene, mask, *place, ink)
        scene.items.append(Item("digit", str(digit), box, writing=writing, sample=sample))


def _write_word(scene: Scene, rng: np.random.Generator, split: str, dark: bool) -> None:
    ink = _ink(rng, dark)
    word = str(rng.choice(TEST_WORDS)) if split == "test" else _train_word(rng)
    mask, columns = text_mask(word, int(rng.integers(24, 31)), int(rng.integers(0, 2)))
    place = _free_place(scene, rng, mask.shape[1], mask.shape[0])
    if place is not None:
        left, top, right, bottom = _paint(scene, mask, *place, ink)
        parts = tuple((left + a, top, left + b, bottom) for a, b in columns)
        scene.items.append(Item("word", word, (left, top, right, bottom), parts=parts))


def _train_word(rng: np.random.Generator) -> str:
    """Random letters: an endless supply, so that words are read and not recognised; never a test word."""
    while True:
        word = "".join(rng.choice(list(LETTERS), int(rng.integers(3, 5))))
        if word not in NOT_TEST:
            return word
