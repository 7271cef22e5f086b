"""The stream ``forms``: filled-in forms, printed in our own fonts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from . import rendering as rd
from . import vocabulary as vb
from .receipts import date
from .rendering import Written
from .scene import Ask, Box, Draw, Drawing, is_small, pick

HEIGHT = 448  # pixels of the picture; its width varies
MOST_TURNS = 6
TITLES = (
    *("Registration", "Application", "Membership", "Order Form", "Visitor Pass", "Feedback"),
    *("Library Card", "Booking", "Claim Form", "Survey"),
)
CHECKS = ("Newsletter", "Parking", "Lunch", "Insurance", "Student", "Member", "Delivery", "Gift wrap")


class Field(NamedTuple):
    """A line of a form: its label, what is filled in, and the box of that."""

    label: str
    value: str
    box: Box


class Form(NamedTuple):
    """A form in a picture."""

    title: Written
    fields: tuple[Field, ...]
    checks: tuple[Field, ...]
    """Fields whose value is "yes" or "no"; their boxes hold both check boxes and the words beside them."""
    size: tuple[int, int]


def draw(split: str, folder: Path) -> Draw:
    """Scenes of one form each with up to 6 turns."""

    def drawing(rng: np.random.Generator) -> Drawing:
        size = (int(rng.integers(300, 449)), HEIGHT)
        picture = rd.backdrop(rng, split, folder, size)
        form = write(rng, picture, split)
        turns = [ask_title(rng, form), ask_checked(rng, form), ask_whose(rng, form)]
        turns += [ask_field(rng, form, field) for field in form.fields]
        turns += [ask_check(rng, form, field) for field in form.checks]
        made = [turn for turn in turns if turn]
        return Drawing(picture, tuple(made[i] for i in rng.permutation(len(made))[:MOST_TURNS]))

    return drawing


def _person(rng: np.random.Generator, split: str) -> str:
    return vb.person(rng, split)


FIELDS: dict[str, tuple[Callable[[np.random.Generator, str], str], tuple[str, ...]]] = {
    "Name": (_person, ("What is the name on the form?", "Whose form is this?")),
    "City": (lambda rng, _: pick(rng, vb.CITIES), ("What is the city?", "Which city is filled in?")),
    "Phone": (
        lambda rng, _: f"{rng.integers(100, 1000)} {rng.integers(1000, 10000)}",
        ("What is the phone number?", "Which phone number is filled in?"),
    ),
    "Born": (
        lambda rng, _: date(rng, (1940, 2010)),
        ("What is the date of birth?", "When was the person born?"),
    ),
    "Age": (lambda rng, _: str(rng.integers(16, 99)), ("What is the age?", "How old is the person?")),
    "Member No.": (
        lambda rng, _: str(rng.integers(10000, 100000)),
        ("What is the member number?", "Which member number is filled in?"),
    ),
    "Room": (lambda rng, _: str(rng.integers(1, 600)), ("What is the room?", "Which room is filled in?")),
    "Street": (
        lambda rng, _: f"{rng.integers(1, 100)} {pick(rng, vb.PLACES)} Street",
        ("What is the street?", "Which street and number are filled in?"),
    ),
    "Color": (
        lambda rng, _: pick(rng, ("red", "blue", "green", "black", "white", "yellow", "brown", "pink")),
        ("Which color is filled in?", "What is the color on the form?"),
    ),
    "Contact": (_person, ("Who is the contact?", "What is the name of the contact?")),
    "Date": (lambda rng, _: date(rng), ("What is the date on the form?", "When was the form filled in?")),
}
"""How each field is filled in, and the questions about it."""


def write(rng: np.random.Generator, picture: Image.Image, split: str) -> Form:
    """Print a form on a sheet that fills most of ``picture``, and fill it in with another font."""
    width, height = picture.size
    margins = rng.uniform(0.01, 0.06, 4)
    left, right = margins[0] * width, (1 - margins[1]) * width
    top, bottom = margins[2] * height, (1 - margins[3]) * height
    pen, ink, label_font, value_font = rd.Pen(picture), rd.dark(rng), rd.font(rng, split), rd.font(rng, split)
    blue = (int(rng.integers(60)), int(rng.integers(60)), int(rng.integers(120, 200)))
    hand = blue if rng.random() < 0.5 else ink
    pen.frame((left, top, right, bottom), paper := rd.paper(rng), paper)
    left, right = left + 0.05 * (right - left), right - 0.05 * (right - left)
    names = [list(FIELDS)[i] for i in rng.permutation(len(FIELDS))[: rng.integers(3, 7)]]
    checks = [CHECKS[i] for i in rng.permutation(len(CHECKS))[: rng.integers(0, 3)]]
    pitch = min((bottom - top) / (len(names) + len(checks) + 2.2), 58)
    size = round(min(pitch * 0.5, 24))
    title = pick(rng, TITLES)
    big = rd.fitting(title, label_font, round(size * 1.6), right - left)
    written = pen.write(title, ((left + right) / 2, top + pitch * 0.3), label_font, big, ink, "m")
    y, start = top + pitch * 1.6, left + 0.36 * (right - left)
    fields, ticks = [], []
    for name in names:
        value = FIELDS[name][0](rng, split)
        _label(pen, name, left, y, label_font, size, ink, start)
        place = pen.write(
            value, (start + 4, y), value_font, rd.fitting(value, value_font, size, right - start - 6), hand
        )
        fields.append(Field(name, value, place.box))
        pen.rule(start, right, y + size * 1.25, ink)
        y += pitch
    for name in checks:
        _label(pen, name, left, y, label_font, size, ink, start)
        ticks.append(_tick(rng, pen, name, (start + 4, y), label_font, size, (ink, hand)))
        y += pitch
    return Form(written, tuple(fields), tuple(ticks), picture.size)


def _label(
    pen: rd.Pen, name: str, left: float, y: float, font: str, size: int, ink: rd.Colour, end: float
) -> None:
    text = f"{name}:"
    pen.write(text, (left, y), font, rd.fitting(text, font, size, end - left - 4), ink)


def _tick(
    rng: np.random.Generator,
    pen: rd.Pen,
    name: str,
    place: tuple[float, float],
    font: str,
    size: int,
    inks: tuple[rd.Colour, rd.Colour],
) -> Field:
    """Two boxes with "yes" and "no" beside them, one of them crossed."""
    answer = "yes" if rng.random() < 0.5 else "no"
    x, y = place
    side, bottom = size * 0.9, y
    for word in ("yes", "no"):
        pen.frame((x, y, x + side, y + side), inks[0])
        if word == answer:
            pen.cross((x + 2, y + 2, x + side - 2, y + side - 2), inks[1])
        written = pen.write(word, (x + side + 4, y), font, size, inks[0])
        x, bottom = written.box[2] + size, max(bottom, written.box[3], y + side)
    return Field(name, answer, (place[0], y, x - size, bottom))


def ask_title(rng: np.random.Generator, form: Form) -> Ask:
    """What the form is, by its title."""
    wordings = ("What is the title of the form?", "What does the title say?")
    return Ask(wordings, form.title.text, "form-title", is_small([form.title.box], form.size))


def ask_field(rng: np.random.Generator, form: Form, field: Field) -> Ask:
    """What is filled in."""
    kind = f"form-{field.label.lower().rstrip('.').replace(' ', '-')}"
    return Ask(FIELDS[field.label][1], field.value, kind, is_small([field.box], form.size))


def ask_check(rng: np.random.Generator, form: Form, field: Field) -> Ask:
    """Which of yes and no is crossed."""
    wordings = (
        f"What is crossed for {field.label}: yes or no?",
        f"Is {field.label} answered with yes or no?",
    )
    return Ask(wordings, field.value, "form-check", is_small([field.box], form.size))


def ask_checked(rng: np.random.Generator, form: Form) -> Ask:
    """Whether a field is on the form; half of the answers are yes.

    A name that is part of another that is there, such as "Member" of "Member No.", is not asked for.
    """
    there = [field.label for field in (*form.fields, *form.checks)]
    absent = [
        name for name in (*FIELDS, *CHECKS) if not any(name.lower() in label.lower() for label in there)
    ]
    yes = rng.random() < 0.5
    name = pick(rng, there if yes else absent)
    wordings = (f'Does the form ask for "{name}"?', f'Is there a field "{name}"?')
    # All labels must be read. They cover no more than what is filled in, whose boxes are known.
    small = is_small([field.box for field in (*form.fields, *form.checks)], form.size)
    return Ask(wordings, "yes" if yes else "no", "form-exists", small)


def ask_whose(rng: np.random.Generator, form: Form) -> Ask | None:
    """Which field holds a value that no other field holds."""
    values = [field.value for field in form.fields]
    found = [field for field in form.fields if values.count(field.value) == 1]
    if not found:
        return None
    field = found[int(rng.integers(len(found)))]
    wordings = (f'Which field says "{field.value}"?', f'In which field is "{field.value}" filled in?')
    return Ask(wordings, field.label, "form-field", is_small([field.box], form.size))
