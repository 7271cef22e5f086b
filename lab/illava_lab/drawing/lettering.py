"""Printed words and written numbers: fonts and words kept apart by split, and masks to paint."""

import os
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# fmt: off
TEST_WORDS = (
    "CAT", "DOG", "SUN", "MOON", "TREE", "FISH", "BIRD", "LAMP", "BOOK", "DOOR", "HAND", "FOOT", "MILK",
    "RAIN", "SNOW", "WIND", "ROAD", "SHIP", "BEAR", "WOLF", "KING", "ZOO", "BOX", "JAM", "EGG", "ICE", "VAN",
    "PEN", "CUP", "HAT", "KEY", "MAP", "NET", "OWL", "PIG", "QUIZ", "RUG", "TEA", "USB", "VEST", "YAK", "ZIP",
)
# fmt: on

# Splits share no font family, not just no font. All but Aileron, which is part of Pillow, come with
# matplotlib, so there are few: one family for val and three for test, of which only STIX is unrelated to
# those of train (DejaVu Serif has the proportions of DejaVu Sans; cmss is Computer Modern's sans, train has
# its roman).
FONTS = {
    "train": (
        "Aileron",
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
        "cmr10",
        "cmb10",
        "cmti10",
    ),
    "val": ("cmtt10",),
    "test": (
        "STIXGeneral",
        "STIXGeneralBol",
        "STIXGeneralItalic",
        "STIXGeneralBolIta",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-Italic",
        "DejaVuSerif-BoldItalic",
        "cmss10",
    ),
}

# Training scenes use more families, each equally likely. They come in separate packages (the extra
# ``train``), so that evaluation does not need them.
TRAINING_FAMILIES = (
    FONTS["train"][:1],
    FONTS["train"][1:5],
    FONTS["train"][5:9],
    FONTS["train"][9:],
    tuple(f"font_caladea/Caladea-{face}.ttf" for face in ("Regular", "Bold", "Italic", "BoldItalic")),
    tuple(f"font_source_serif_pro/SourceSerifPro-{face}.ttf" for face in ("Regular", "Bold", "It", "Light")),
    tuple(f"font_source_sans_pro/SourceSansPro-{face}.ttf" for face in ("Regular", "Bold", "It")),
    tuple(f"font_lato/Lato-{face}.ttf" for face in ("Regular", "Bold", "Italic")),
    tuple(f"font_manrope/Manrope-{face}.ttf" for face in ("Regular", "Bold")),
    ("font_fjallaone/FjallaOne-Regular.ttf",),
)


def in_line(masks: list[np.ndarray], gaps: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """Put masks side by side, with ``gaps`` pixels after each and ``drops`` pixels above it."""
    height = max(mask.shape[0] + drop for mask, drop in zip(masks, drops, strict=True))
    columns = []
    for mask, gap, drop in zip(masks, gaps, drops, strict=True):
        below = height - mask.shape[0] - drop
        columns.append(np.pad(mask, ((drop, below), (0, gap))))
    line = np.concatenate(columns, axis=1)
    return line[:, : line.shape[1] - gaps[-1]]


def random_word(rng: np.random.Generator, split: str) -> str:
    """Random letters, never a test word; only in val is the sum of letter indices divisible by 10."""
    while True:
        letters = rng.integers(0, len(LETTERS), rng.integers(3, 5))
        word = "".join(LETTERS[i] for i in letters)
        if word not in TEST_WORDS and (letters.sum() % 10 == 0) == (split == "val"):
            return word


@lru_cache(maxsize=256)
def typeface(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of ``FONTS`` or ``TRAINING_FAMILIES`` in a size in pixels."""
    if name == "Aileron":
        return ImageFont.load_default(size=size)
    if "/" in name:
        package, file = name.split("/")
        return ImageFont.truetype(str(files(package) / "files" / file), size)
    from matplotlib import get_data_path  # its fonts; imported late, as it takes long

    return ImageFont.truetype(os.path.join(get_data_path(), "fonts", "ttf", f"{name}.ttf"), size)


def printed(word: str, font: str, size: int) -> np.ndarray:
    """Print ``word`` in one of ``FONTS`` or ``TRAINING_FAMILIES``: a float32 mask in 0..1, cut to the ink."""
    face = typeface(font, size)
    left, top, right, bottom = face.getbbox(word)
    image = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), word, fill=255, font=face)
    return np.asarray(image, np.float32) / 255


def letter_columns(word: str, font: str, size: int) -> list[tuple[int, int]]:
    """The (left, right) pixel columns of each letter in the mask that :func:`printed` returns."""
    face = typeface(font, size)
    left, _, right, _ = face.getbbox(word)
    ends = [face.getlength(word[:i]) - left for i in range(len(word) + 1)]
    edges = [round(min(max(end, 0), right - left)) for end in ends]
    return list(pairwise(edges))
