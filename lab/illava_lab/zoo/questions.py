"""The tasks' questions about a training scene, and the same facts as dense labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..drawing.canvas import COLOURS, indefinite
from ..drawing.glyphs import SHAPES
from ..drawing.lettering import LETTERS
from ..tasks import attribute, existence, spatial
from ..tasks.counting import COUNTING, PLURALS
from ..tasks.reading import Digits, Words
from .scenes import Item, Scene

# Classes of the dense labels: background, then shapes, digits and letters.
CLASSES = ("background", *SHAPES, *"0123456789", *LETTERS)
LONGEST = 4  # characters of a number or word
IGNORE = -100


# The facts about a thing that a question mentions, and the number of their values.
REFERENCE = {
    "count": 10,
    "row": 12,
    "column": 12,
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "picture": 4,
    "motion": 4,
}
UNIT = 16  # side of a visual token in pixels


@dataclass(frozen=True)
class Mention:
    """A phrase of a question that refers to things, and the unambiguous facts about them.

    ``end`` is the end of the phrase, exclusive; ``facts`` are class numbers by the names in ``REFERENCE``;
    ``seen`` are the (picture, row, column) of the visual tokens that hold the things' centres.
    """

    end: int
    facts: dict[str, int]
    seen: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Question:
    """A task's question and its answer as plain text, and its mentions of things.

    ``spelled`` are the places of the characters of an answer that is read from the image.
    """

    task: str
    text: str
    answer: str
    mentions: tuple[Mention, ...] = ()
    spelled: tuple[dict[str, int], ...] = ()


def refer(things: Sequence[Item], shape: str | None = None, colour: str | None = None) -> dict[str, int]:
    """Facts about the things of this shape, or colour, or both: their number up to 9, and all facts about a
    single one."""
    meant = [t for t in things if shape in (None, t.name) and colour in (None, t.colour)]
    facts = {"count": len(meant)} if len(meant) < REFERENCE["count"] else {}
    if len(meant) == 1:
        x, y = meant[0].centre
        facts |= {"row": int(y // UNIT), "column": int(x // UNIT)}
        facts |= {"colour": list(COLOURS).index(meant[0].colour or ""), "shape": SHAPES.index(meant[0].name)}
    return facts


def spots(
    things: Sequence[Item], shape: str | None = None, colour: str | None = None, picture: int = 0
) -> tuple[tuple[int, int, int], ...]:
    """The (image, row, column) of the visual tokens that contain the centres of the things in question."""
    meant = [t.centre for t in things if shape in (None, t.name) and colour in (None, t.colour)]
    return tuple(dict.fromkeys((picture, int(y // UNIT), int(x // UNIT)) for x, y in meant))


def mention(
    text: str, phrase: str, facts: dict[str, int], seen: tuple[tuple[int, int, int], ...] = ()
) -> Mention:
    """A mention at the first occurrence of ``phrase`` as whole words in ``text``."""
    found = re.search(rf"\b{re.escape(phrase)}\b", text)
    if found is None:
        raise ValueError(f"{text!r} does not mention {phrase!r}")
    return Mention(found.end(), facts, seen)


def mention_of(
    text: str, phrase: str, things: Sequence[Item], shape: str | None = None, colour: str | None = None
) -> Mention:
    """A mention of the things of this shape, or colour, or both, in a single image."""
    return mention(text, phrase, refer(things, shape, colour), spots(things, shape, colour))


def ask(scene: Scene, rng: np.random.Generator, most: int, tasks: Sequence[str] = ()) -> list[Question]:
    """Return up to ``most`` questions with one right answer each, of all tasks or of these."""
    counts = {"count": 5, "mixed": 3}.get(scene.kind, 1)
    asked = [
        _reading(scene, rng),
        _many(rng, _counting(scene, rng), counts),
        _some(rng, _attribute(scene, rng), 4),
        _some(rng, _spatial(scene, rng), 3),
        _existence(scene, rng),
    ]
    asked = [[q for q in group if q.task in tasks or not tasks] for group in asked]
    first = next((i for i, group in enumerate(asked) if group), 0)
    rest = [question for i, group in enumerate(asked) if i != first for question in group]
    # The questions that the scene was drawn for come first, so that they are always included.
    return [*asked[first], *_some(rng, rest, most)][:most]


def _some(rng: np.random.Generator, questions: list[Question], most: int) -> list[Question]:
    return [questions[i] for i in rng.permutation(len(questions))[:most]]


def _many(rng: np.random.Generator, counting: list[Question], most: int) -> list[Question]:
    """Up to ``most`` of these; a question with answer six is six times as likely as one with answer one.

    Few things of a kind are common in any picture; all the same every number is to be learnt.
    """
    keys = [rng.random() ** (1 / int(question.answer)) for question in counting]
    return [counting[i] for i in np.argsort(keys)[::-1][:most]]


def _reading(scene: Scene, rng: np.random.Generator) -> list[Question]:
    if not scene.written:
        return []
    task = Digits if scene.kind == "number" else Words
    text, spelled = str(rng.choice(task.phrases)), []
    for x, y in (item.centre for item in scene.items if item.place):
        spelled.append({"row": int(y // UNIT), "column": int(x // UNIT)})
    return [Question(task.name, text, scene.written, spelled=tuple(spelled))]


def _counting(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Counting questions with answers from 2 to 9, and a third of those with answer 1."""
    things = scene.things
    counts = {"shapes": len(things)}
    kinds: dict[str, tuple[str | None, str | None]] = {"shapes": (None, None)}
    for thing in things:
        kinds |= {PLURALS[thing.name]: (thing.name, None), f"{thing.colour} shapes": (None, thing.colour)}
        for about in (PLURALS[thing.name], f"{thing.colour} shapes"):
            counts[about] = counts.get(about, 0) + 1
    found = []
    for turn, (about, count) in enumerate(counts.items()):
        # Single things are common; asking about all of them would make 1 the most frequent answer.
        if 2 <= count <= 9 or (count == 1 and turn % 3 == 0):
            # At random, as in the task, so that the phrasing does not reveal the answer.
            text = str(rng.choice(COUNTING)).format(about)
            shape, colour = kinds[about]
            reference = mention_of(text, about, things, shape, colour)
            found.append(Question("counting", text, str(count), (reference,)))
    return found


def _attribute(scene: Scene, rng: np.random.Generator) -> list[Question]:
    found = []
    for thing in scene.things:
        if sum(other.name == thing.name for other in scene.things) == 1:
            text = str(rng.choice(attribute.PHRASES["colour"])).format(thing.name)
            reference = mention_of(text, thing.name, scene.things, shape=thing.name)
            found.append(Question("attribute", text, thing.colour, (reference,)))
        if sum(other.colour == thing.colour for other in scene.things) == 1:
            text = str(rng.choice(attribute.PHRASES["shape"])).format(thing.colour)
            reference = mention_of(text, thing.colour, scene.things, colour=thing.colour)
            found.append(Question("attribute", text, thing.name, (reference,)))
    return found


def _spatial(scene: Scene, rng: np.random.Generator) -> list[Question]:
    names = [thing.name for thing in scene.things]
    pairs = [(thing.name, thing.colour) for thing in scene.things]
    found = []
    for a, first in enumerate(scene.things):
        for b, second in enumerate(scene.things):
            relation = spatial.relation_of(first.box, second.box) if a != b else None
            if relation is None or pairs.count(pairs[a]) > 1 or pairs.count(pairs[b]) > 1:
                continue
            both = [first.name, second.name]
            if names.count(both[0]) > 1 or names.count(both[1]) > 1 or rng.random() < 0.4:
                both = [f"{thing.colour} {thing.name}" for thing in (first, second)]
            text = str(rng.choice(spatial.PHRASES)).format(*both)
            references = [
                mention_of(text, name, scene.things, thing.name, thing.colour)
                for name, thing in zip(both, (first, second), strict=True)
            ]
            found.append(Question("spatial", text, relation, tuple(references)))
    return found


def _existence(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Three questions about a shape, a colour and both; yes and no are equally frequent."""
    things = scene.things
    if not things:
        return []
    found = []
    for kind in ("shape", "colour", "both"):
        there = rng.random() < 0.5
        thing: Item = things[rng.integers(len(things))]
        shape, colour = thing.name, thing.colour
        if not there:
            away = _away(things, kind, rng)
            if away is None:
                continue
            shape, colour = away
        about = {"shape": shape, "colour": f"anything {colour}"}.get(kind, f"{colour} {shape}")
        text = str(rng.choice(existence.PHRASES)).format(about if kind == "colour" else indefinite(about))
        meant = None if kind == "colour" else shape, None if kind == "shape" else colour
        reference = mention_of(text, about, things, *meant)
        found.append(Question("existence", text, "yes" if there else "no", (reference,)))
    return found


def _away(things: list[Item], kind: str, rng: np.random.Generator) -> tuple[str, str] | None:
    """A (shape, colour) that is not there, or None: its shape is not, its colour is not, or not both in one.

    For "both", shape and colour are there on different things, as far as that can be had.
    """
    pairs = {(thing.name, thing.colour) for thing in things}
    shapes, colours = ({pair[i] for pair in pairs} for i in range(2))
    others = [(shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in pairs]
    if kind == "shape":
        others = [pair for pair in others if pair[0] not in shapes]
    elif kind == "colour":
        others = [pair for pair in others if pair[1] not in colours]
    else:
        others = [pair for pair in others if pair[0] in shapes and pair[1] in colours] or others
    return others[rng.integers(len(others))] if others else None


def dense_labels(scene: Scene, unit: int = 16) -> dict[str, np.ndarray]:
    """Label every ``unit`` x ``unit`` pixel square of the picture, as int64 (side/unit, side/unit) arrays.

    ``class`` indexes ``CLASSES``: the item over the square's centre, background where no item touches the
    square, else IGNORE. ``colour`` indexes ``COLOURS`` where a thing covers the centre, else IGNORE.
    ``motion`` is there which way that thing moves: 0 for not at all, else by the order of the directions.
    ``centre`` is the class of the item whose centre the square holds, else 0: an item covers several
    squares but has one centre, so this is what counting and spelling need. ``place`` is the place of the
    character whose centre the square holds, else 0. ``ink`` is float32 (side/unit, side/unit, unit**2/4), the
    share of ink in each 2 x 2 pixels of the square.
    """
    n = scene.picture.shape[0] // unit
    label = {
        "class": np.zeros((n, n), np.int64),
        "colour": np.full((n, n), IGNORE),
        "motion": np.full((n, n), IGNORE),
        "centre": np.zeros((n, n), np.int64),
        "place": np.zeros((n, n), np.int64),
    }

    def covered(box: tuple[int, int, int, int], shift: float) -> tuple[slice, slice]:
        """Rows and columns of squares whose point (or, with shift, any part) lies in the box."""
        first = [max(0, int(np.ceil((edge - shift) / unit))) for edge in (box[0], box[1])]
        last = [min(n, int(np.floor((edge - 1e-6 - unit + shift) / unit)) + 1) for edge in (box[2], box[3])]
        return slice(first[1], max(last[1], first[1])), slice(first[0], max(last[0], first[0]))

    for item in scene.items:
        label["class"][covered(item.box, unit - 1e-3)] = IGNORE
    for item in scene.items:
        index = CLASSES.index(item.name)
        label["class"][covered(item.box, unit / 2)] = index
        if item.colour is not None:
            label["colour"][covered(item.box, unit / 2)] = list(COLOURS).index(item.colour)
            label["motion"][covered(item.box, unit / 2)] = item.motion
        x, y = (min(int(edge // unit), n - 1) for edge in item.centre)
        taken = label["centre"][y, x] != 0
        label["centre"][y, x] = IGNORE if taken else index
        label["place"][y, x] = IGNORE if taken else item.place
    cells = scene.ink.reshape(n, unit // 2, 2, n, unit // 2, 2).mean((2, 5))
    label["ink"] = cells.transpose(0, 2, 1, 3).reshape(n, n, -1)
    return label
