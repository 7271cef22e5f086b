"""Which tasks of photographs and documents there are, and what each asks; :mod:`.tasks` makes them."""

from __future__ import annotations

from typing import NamedTuple


class OfSet(NamedTuple):
    """A task of a set's own questions."""

    description: str
    set: str
    kinds: tuple[str, ...] = ()
    """Those of the set's kinds that it asks; () for all."""
    closed: bool = True
    """Whether the answers are from a list."""


class OfStream(NamedTuple):
    """A task of generated questions."""

    description: str
    stream: str
    kinds: tuple[str, ...]
    """The kinds of questions, asked in turn."""
    guess: float
    """The accuracy of always giving the likeliest answer to each kind of question; measured on "test"."""
    choices: tuple[str, ...] = ()
    size: int = 200


TEXT = (
    *("real-sroie", "real-words", "real-receipts", "real-forms", "real-signposts"),
    *("real-large-words", "real-words-exists"),
)
WHERE = (
    "real-collage-place",
    "real-collage-where",
    "real-collage-beside",
    "real-board-where",
    "real-cards-place",
)
"""Tasks whose answers are written in the picture, and those that depend on positions."""
YES_NO = ("yes", "no")
TASKS: dict[str, OfSet | OfStream] = {
    "real-clothing": OfSet("Name a piece of clothing.", "clothing"),
    "real-grocery": OfSet("Name a fruit, vegetable or carton.", "grocery", ("class_coarse",)),
    "real-grocery-fine": OfSet("Name the variety or brand of a grocery item.", "grocery", ("class_fine",)),
    "real-signs": OfSet("Read the digit that a hand sign shows.", "digits_sign"),
    "real-cards": OfSet("Name, count and find playing cards.", "cards"),
    "real-nlvr": OfSet("Judge sentences about drawn shapes.", "nlvr"),
    "real-daquar": OfSet("Answer questions about rooms.", "daquar", closed=False),
    "real-sroie": OfSet(
        "Read company, date and total of scanned receipts.",
        "sroie",
        ("company", "date", "total"),
        closed=False,
    ),
    "real-collage-place": OfStream(
        "Name what is at a place of a grid of photographs.", "collage", ("collage-place",), 0.14
    ),
    "real-collage-where": OfStream(
        "Say where in a grid of photographs a thing is.", "collage", ("collage-where",), 0.14
    ),
    "real-collage-beside": OfStream(
        "Name what is next to a thing in a grid of photographs.", "collage", ("collage-beside",), 0.12
    ),
    "real-collage-exists": OfStream(
        "Say whether a grid of photographs shows a thing.", "collage", ("collage-exists",), 0.5, YES_NO
    ),
    "real-collage-count": OfStream(
        "Count the photographs of a thing in a grid.", "collage", ("collage-count",), 0.28, tuple("12345")
    ),
    "real-board": OfStream(
        "Name a small photograph on a board.", "board", ("board-only", "board-nearest", "board-digit"), 0.12
    ),
    "real-board-where": OfStream(
        "Say in which quarter of a board a small photograph is.",
        "board",
        ("board-where",),
        0.25,
        ("top left", "top right", "bottom left", "bottom right"),
    ),
    "real-board-exists": OfStream(
        "Say whether a board of small photographs shows a thing.", "board", ("board-exists",), 0.5, YES_NO
    ),
    "real-board-count": OfStream(
        "Count the small photographs of a thing on a board.", "board", ("board-count",), 0.41, tuple("1234")
    ),
    "real-cards-place": OfStream(
        "Say where playing cards are.",
        "cards",
        ("card-where", "card-outermost", "card-sides"),
        0.42,
        size=100,
    ),
    "real-nlvr-exact": OfStream(
        "Count, find and name drawn shapes.",
        "nlvr",
        tuple(f"nlvr-{kind}" for kind in ("count", "exists", "box", "color", "shape", "above")),
        0.43,
    ),
    "real-words": OfStream(
        "Read words and numbers on photographs, half of the words unknown to training.",
        "words",
        ("words-read-word", "words-read-new", "words-read-number"),
        0.04,
    ),
    "real-receipts": OfStream(
        "Read printed receipts.",
        "receipts",
        tuple(f"receipt-{kind}" for kind in ("total", "date", "price", "item", "shop", "dearest", "count")),
        0.1,
    ),
    "real-forms": OfStream(
        "Read filled-in forms.",
        "forms",
        tuple(
            f"form-{kind}" for kind in ("name", "city", "phone", "born", "age", "check", "field", "member-no")
        ),
        0.17,
    ),
    "real-signposts": OfStream(
        "Read signposts.",
        "signs",
        tuple(f"sign-{kind}" for kind in ("way", "place", "distance", "row")),
        0.18,
    ),
    "real-photo-exists": OfStream(
        "Say whether a photograph shows a thing.", "photo", ("photo-exists",), 0.5, YES_NO
    ),
    "real-photo-choice": OfStream(
        "Say which of two things a photograph shows.", "photo", ("photo-choice",), 0.5
    ),
    "real-large-words": OfStream(
        "Read one or two large words and numbers.", "big", ("words-read-word", "words-read-number"), 0.05
    ),
    "real-words-exists": OfStream(
        "Say whether a word is in the picture.", "words", ("words-exists",), 0.5, YES_NO
    ),
}
"""The order never changes: it is part of the questions' seeds."""


def group_of(name: str) -> str:
    """The group of a task; see :class:`illava.evaluation.rows.Task`."""
    return "text" if name in TEXT else "where" if name in WHERE else ""
