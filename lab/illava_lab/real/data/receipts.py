"""The stream ``receipts``: receipts of invented shops, printed in our own fonts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from . import rendering as rd
from . import vocabulary as vb
from .rendering import Written
from .scene import Ask, Draw, Drawing, is_small, pick

HEIGHT = 448  # pixels of the picture; its width varies
MOST_TURNS = 6
ITEMS = (2, 6)
AMOUNTS = ("total", "price", "change")
"""The kinds whose answers may be given with a currency sign."""


class Receipt(NamedTuple):
    """What is printed; amounts are in hundredths."""

    shop: str
    address: str
    date: str
    time: str
    details: tuple[tuple[str, str], ...]
    """Some of ("Table", "12"), ("Receipt", "4711") and ("Cashier", "Anna")."""
    items: tuple[tuple[str, int], ...]
    tax: int
    paid: int
    """0 if it is not printed."""
    sign: str
    """The currency sign before amounts, or ""."""
    thanks: bool

    @property
    def total(self) -> int:
        return sum(price for _, price in self.items) + self.tax


class Printed(NamedTuple):
    """A receipt in a picture: where each of its texts is."""

    receipt: Receipt
    size: tuple[int, int]
    places: dict[str, Written]
    """By "shop", "date", "total", "change", the names of details, and "item 0", "price 0" and so on."""


def draw(split: str, folder: Path) -> Draw:
    """Scenes of one receipt each with up to 6 turns."""

    def drawing(rng: np.random.Generator) -> Drawing:
        size = (int(rng.integers(270, 449)), HEIGHT)
        picture = rd.backdrop(rng, split, folder, size)
        printed = write(rng, picture, invent(rng, split), split)
        turns = [turn for make in QUESTIONS if (turn := make(rng, printed))]
        return Drawing(picture, tuple(turns[i] for i in rng.permutation(len(turns))[:MOST_TURNS]))

    return drawing


def invent(rng: np.random.Generator, split: str) -> Receipt:
    """A random receipt; the whole name of its shop occurs in no other split."""
    goods = [vb.GOODS[i] for i in rng.permutation(len(vb.GOODS))[: rng.integers(ITEMS[0], ITEMS[1] + 1)]]
    items = tuple((name, int(rng.integers(10, 400)) * 5) for name in goods)
    tax = int(rng.integers(1, 60)) * 5 if rng.random() < 0.35 else 0
    total = sum(price for _, price in items) + tax
    details = [("Table", str(rng.integers(1, 41))), ("Receipt", str(rng.integers(1000, 10000)))]
    details.append(("Cashier", pick(rng, vb.FIRST)))
    return Receipt(
        shop=vb.shop(rng, split),
        address=f"{rng.integers(1, 100)} {pick(rng, vb.PLACES)} Street, {pick(rng, vb.CITIES)}",
        date=date(rng),
        time=f"{rng.integers(7, 23)}:{rng.integers(60):02}",
        details=tuple(detail for detail in details if rng.random() < 0.4),
        items=items,
        tax=tax,
        paid=-(-total // 1000) * 1000 + 1000 * int(rng.integers(2)) if rng.random() < 0.3 else 0,
        sign="$" if rng.random() < 0.4 else "",
        thanks=bool(rng.random() < 0.4),
    )


def date(rng: np.random.Generator, years: tuple[int, int] = (2015, 2027)) -> str:
    """A date in one of three notations."""
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(*years))
    notations = (
        f"{day:02}/{month:02}/{year}",
        f"{year}-{month:02}-{day:02}",
        f"{day} {vb.MONTHS[month - 1]} {year}",
    )
    return pick(rng, notations)


def amount(cents: int, sign: str = "") -> str:
    """ "12.50", after the currency sign."""
    return f"{sign}{cents // 100}.{cents % 100:02}"


def write(rng: np.random.Generator, picture: Image.Image, receipt: Receipt, split: str) -> Printed:
    """Print ``receipt`` on a sheet of paper that fills most of ``picture``."""
    width, height = picture.size
    margins = rng.uniform(0.01, 0.08, 4)
    left, right = margins[0] * width, (1 - margins[1]) * width
    top, bottom = margins[2] * height, (1 - margins[3]) * height
    pen, ink, name = rd.Pen(picture), rd.dark(rng), rd.font(rng, split)
    pen.frame((left, top, right, bottom), paper := rd.paper(rng), paper)
    rows = _rows(receipt)
    pitch = min((bottom - top) / (len(rows) + 1.6), 34)
    inner = (right - left) * 0.06
    left, right = left + inner, right - inner
    y, places = top + (bottom - top - pitch * (len(rows) + 0.6)) * rng.uniform(0.2, 0.8), {}
    for key, text, value_key, value in rows:
        big = 1.35 if key == "shop" else 1.1 if value_key == "total" else 1
        size = round(pitch * 0.72 * big)
        if not text:
            pen.rule(left, right, y + pitch / 2, ink, dashed=True)
        elif value:
            size = rd.fitting(f"{text}  {value}", name, size, right - left)
            places[key] = pen.write(text, (left, y), name, size, ink)
            places[value_key] = pen.write(value, (right, y), name, size, ink, "r")
        else:
            size = rd.fitting(text, name, size, right - left)
            places[key] = pen.write(text, ((left + right) / 2, y), name, size, ink, "m")
        y += pitch * (1.4 if key == "shop" else 1)
    return Printed(receipt, picture.size, places)


def _rows(receipt: Receipt) -> list[tuple[str, str, str, str]]:
    """(key, text, key of the value, value at the right); no text stands for a rule."""
    sign = receipt.sign
    rows = [("shop", receipt.shop, "", ""), ("address", receipt.address, "", "")]
    rows.append(
        ("", receipt.date, "", "") if not receipt.time else ("date", receipt.date, "time", receipt.time)
    )
    rows += [(f"{name} label", name, name, value) for name, value in receipt.details]
    rows.append(("", "", "", ""))
    rows += [
        (f"item {i}", name, f"price {i}", amount(price, sign))
        for i, (name, price) in enumerate(receipt.items)
    ]
    rows.append(("", "", "", ""))
    if receipt.tax:
        rows.append(("tax label", "Tax", "tax", amount(receipt.tax, sign)))
    rows.append(("total label", "TOTAL", "total", amount(receipt.total, sign)))
    if receipt.paid:
        rows.append(("cash label", "Cash", "cash", amount(receipt.paid, sign)))
        rows.append(("change label", "Change", "change", amount(receipt.paid - receipt.total, sign)))
    if receipt.thanks:
        rows.append(("thanks", "Thank you!", "", ""))
    return rows


def ask_total(rng: np.random.Generator, printed: Printed) -> Ask:
    """The total, without the currency sign."""
    wordings = ("What is the total?", "How much is the total?", "What is the total amount?")
    return _ask(printed, wordings, amount(printed.receipt.total), "total", ["total"])


def ask_shop(rng: np.random.Generator, printed: Printed) -> Ask:
    """The shop's name."""
    wordings = ("What is the name of the shop?", "Which shop issued this receipt?")
    return _ask(printed, wordings, printed.receipt.shop, "shop", ["shop"])


def ask_date(rng: np.random.Generator, printed: Printed) -> Ask:
    """The date as it is printed."""
    wordings = ("What is the date on the receipt?", "When was the receipt issued?")
    return _ask(printed, wordings, printed.receipt.date, "date", ["date"])


def ask_price(rng: np.random.Generator, printed: Printed) -> Ask:
    """The price of an item, without the currency sign."""
    number = int(rng.integers(len(printed.receipt.items)))
    name, price = printed.receipt.items[number]
    wordings = (f"What is the price of {name}?", f"How much does {name} cost?")
    return _ask(printed, wordings, amount(price), "price", [f"item {number}", f"price {number}"])


def ask_item(rng: np.random.Generator, printed: Printed) -> Ask | None:
    """The only item of a price."""
    often = Counter(price for _, price in printed.receipt.items)
    found = [i for i, (_, price) in enumerate(printed.receipt.items) if often[price] == 1]
    if not found:
        return None
    number = found[int(rng.integers(len(found)))]
    name, price = printed.receipt.items[number]
    wordings = (f"Which item costs {amount(price)}?", f"What was sold for {amount(price)}?")
    return _ask(printed, wordings, name, "item", [f"item {number}", f"price {number}"])


def ask_dearest(rng: np.random.Generator, printed: Printed) -> Ask | None:
    """The item of the highest price, if only one has it; all prices must be read."""
    prices = [price for _, price in printed.receipt.items]
    if prices.count(max(prices)) > 1:
        return None
    wordings = ("Which item is the most expensive?", "What is the most expensive item?")
    name = printed.receipt.items[prices.index(max(prices))][0]
    keys = [f"price {i}" for i in range(len(prices))]
    return _ask(printed, wordings, name, "dearest", keys)


def ask_count(rng: np.random.Generator, printed: Printed) -> Ask:
    """The number of items."""
    count = len(printed.receipt.items)
    wordings = ("How many items are on the receipt?", "How many different items were bought?")
    return _ask(printed, wordings, str(count), "count", [f"item {i}" for i in range(count)])


def ask_exists(rng: np.random.Generator, printed: Printed) -> Ask:
    """Whether an item is on the receipt; half of the answers are yes."""
    names = [name for name, _ in printed.receipt.items]
    yes = rng.random() < 0.5
    name = pick(rng, names if yes else [other for other in vb.GOODS if other not in names])
    wordings = (f"Is {name} on the receipt?", f"Does the receipt list {name}?")
    keys = [f"item {i}" for i in range(len(names))]
    return _ask(printed, wordings, "yes" if yes else "no", "exists", keys)


def ask_detail(rng: np.random.Generator, printed: Printed) -> Ask | None:
    """The table, the number of the receipt, or the cashier."""
    if not printed.receipt.details:
        return None
    name, value = printed.receipt.details[int(rng.integers(len(printed.receipt.details)))]
    wordings = {
        "Table": ("What is the table number?", "Which table is it?"),
        "Receipt": ("What is the receipt number?", "Which number has the receipt?"),
        "Cashier": ("Who is the cashier?", "What is the name of the cashier?"),
    }[name]
    return _ask(printed, wordings, value, name.lower(), [name])


def ask_change(rng: np.random.Generator, printed: Printed) -> Ask | None:
    """The change, if it is printed."""
    if not printed.receipt.paid:
        return None
    change = amount(printed.receipt.paid - printed.receipt.total)
    return _ask(printed, ("How much is the change?", "What is the change?"), change, "change", ["change"])


QUESTIONS: tuple[Callable[[np.random.Generator, Printed], Ask | None], ...] = (
    *(ask_total, ask_shop, ask_date, ask_price, ask_item),
    *(ask_dearest, ask_count, ask_exists, ask_detail, ask_change),
)


def _ask(printed: Printed, wordings: tuple[str, ...], answer: str, kind: str, keys: list[str]) -> Ask:
    boxes = [printed.places[key].box for key in keys]
    also = (f"${answer}",) if kind in AMOUNTS else ()
    return Ask(wordings, answer, f"receipt-{kind}", is_small(boxes, printed.size), also)
