"""Questions about a scene with exactly one right answer, and the same facts as dense labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .glyphs import SHAPES
from .scenes import COLOURS, LETTERS, Scene

KINDS = ("colour", "shape", "count", "digit", "count_one", "word")
COUNTING = ("How many {} are there?", "How many {} can you see?", "Count the {}.")
PHRASES = {
    "colour": ("What colour is the {}?", "Which colour does the {} have?", "What is the colour of the {}?"),
    "shape": ("Which shape is {}?", "What is the {} shape?", "What shape is the {} one?"),
    "count": COUNTING,  # all shapes
    "count_one": COUNTING,  # the shapes of one name
    "digit": ("Which digit is written?", "What digit is this?", "Which number do you see?"),
    "word": ("What does it read?", "What is the word?", "Which word is written?"),
}
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
# Classes of the dense labels: background, then shapes, digits and letters.
CLASSES = ("background", *SHAPES, *"0123456789", *LETTERS)
IGNORE = -100


@dataclass(frozen=True)
class Question:
    """A question of one of ``KINDS`` and its answer, both plain text."""

    kind: str
    text: str
    answer: str


def facts(scene: Scene) -> list[tuple[str, str, str]]:
    """List all (kind, thing asked about, answer) that hold unambiguously in ``scene``."""
    shapes = [item.name for item in scene.of_kind("shape")]
    colours = [item.colour for item in scene.of_kind("shape")]
    found = []
    for item in scene.of_kind("shape"):
        if shapes.count(item.name) == 1:
            found.append(("colour", item.name, item.colour))
        if colours.count(item.colour) == 1:
            found.append(("shape", item.colour, item.name))
    if shapes:
        found.append(("count", "shapes", str(len(shapes))))
    if len(set(shapes)) < len(shapes):  # where all differ, counting one shape always gives 1
        found += [("count_one", PLURALS[shape], str(shapes.count(shape))) for shape in sorted(set(shapes))]
    found += [("digit", "", item.name) for item in scene.of_kind("digit")]
    found += [("word", "", item.name) for item in scene.of_kind("word")]
    return found


def ask(scene: Scene, rng: np.random.Generator, most: int, kinds: Sequence[str] = KINDS) -> list[Question]:
    """Phrase up to ``most`` different questions about ``scene``, every kind once before any kind twice.

    ``kinds`` restricts them to some of ``KINDS``; raises ValueError for any other.
    """
    for kind in set(kinds) - set(KINDS):
        raise ValueError(f"unknown kind of question {kind!r}; the kinds are {', '.join(KINDS)}")
    found = [fact for fact in facts(scene) if fact[0] in kinds]
    found = [found[i] for i in rng.permutation(len(found))]
    rank = [sum(other[0] == fact[0] for other in found[:i]) for i, fact in enumerate(found)]
    chosen = [found[i] for i in np.argsort(rank, kind="stable")[:most]]
    return [Question(k, str(rng.choice(PHRASES[k])).format(about), answer) for k, about, answer in chosen]


def dense_labels(scene: Scene, unit: int = 16) -> dict[str, np.ndarray]:
    """Label every ``unit`` x ``unit`` pixel square of the picture, as int64 (size/unit, size/unit) arrays.

    ``class`` indexes ``CLASSES``: the item over the square's centre, background where no item touches
    the square, else IGNORE. ``colour`` indexes ``COLOURS`` where a shape covers the centre, else IGNORE.
    ``centre`` is the class of the shape whose centre the square holds, else 0: a shape covers several
    squares but has one centre, so this is what counting needs. ``ink`` is float32 (size/unit, size/unit,
    unit**2/4), the share of ink in each 2 x 2 pixels of the square.
    """
    n = scene.picture.shape[0] // unit
    label = {
        "class": np.zeros((n, n), np.int64),
        "colour": np.full((n, n), IGNORE),
        "centre": np.zeros((n, n), np.int64),
    }

    def covered(box: tuple[int, int, int, int], shift: float) -> tuple[slice, slice]:
        """Rows and columns of squares whose point (or, with shift, any part) lies in the box."""
        first = [max(0, int(np.ceil((edge - shift) / unit))) for edge in (box[0], box[1])]
        last = [min(n, int(np.floor((edge - 1e-6 - unit + shift) / unit)) + 1) for edge in (box[2], box[3])]
        return slice(first[1], max(last[1], first[1])), slice(first[0], max(last[0], first[0]))

    for item in scene.items:
        label["class"][covered(item.box, unit - 1e-3)] = IGNORE
    for item in scene.items:
        parts = zip(item.parts or (item.box,), item.name if item.parts else (item.name,), strict=True)
        for box, name in parts:
            label["class"][covered(box, unit / 2)] = CLASSES.index(name)
        if item.colour is not None:
            label["colour"][covered(item.box, unit / 2)] = list(COLOURS).index(item.colour)
            x, y = (item.box[0] + item.box[2]) // 2, (item.box[1] + item.box[3]) // 2
            label["centre"][y // unit, x // unit] = CLASSES.index(item.name)
    cells = scene.ink.reshape(n, unit // 2, 2, n, unit // 2, 2).mean((2, 5))
    label["ink"] = cells.transpose(0, 2, 1, 3).reshape(n, n, -1)
    return label
