"""A small folder in the format of the picture sets, in which every class is one plain colour."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LEVELS = (5, 85, 165, 245)
PALETTE = [colour for colour in product(LEVELS, repeat=3) if len(set(colour)) > 1]
CLOTHING = ("dress", "hat", "longsleeve", "pants", "shirt", "shoes", "shorts", "t-shirt")
GROCERY = ("apple", "banana", "garlic", "kiwi", "leek", "lemon", "milk", "oat milk", "onion", "pear", "plum")
GROCERY += ("potato", "tomato", "zucchini")
DIGITS = tuple("0123456789")
COLOUR = dict(zip((*CLOTHING, *GROCERY, *DIGITS), PALETTE, strict=False))
RANKS = ("nine", "ten", "jack", "queen", "king", "ace")
RANK_COLOUR = dict(zip(RANKS, PALETTE, strict=False))
SHAPE_COLOUR = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 150, 255)}
GROUND = (211, 211, 211)


def write_set(folder: Path, part: str, rows: list[dict]) -> None:
    """Add lines to the file of a part of a set."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    with open(folder / f"{part}.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def photo_sets(folder: Path) -> None:
    """Clothing, grocery and hand signs: 16 training and 3 other photographs a class, 40 people."""
    for name, labels in (("clothing", CLOTHING), ("grocery", GROCERY), ("digits_sign", DIGITS)):
        for part, count in (("train", 40 if name == "digits_sign" else 16), ("val", 3)):
            rows = []
            for place, (number, label) in enumerate(product(range(count), labels)):
                stem = f"{part}-{label}-{number}"
                if name == "digits_sign":
                    stem = f"{label}_{(500 if part == 'val' else 1500) + place}"
                rows += photo_rows(name, label, stem)
            write_set(folder / name, part, rows)
            for row in rows:
                colour = COLOUR[row["answers"][0]] if row["kind"] != "class_fine" else COLOUR["apple"]
                Image.new("RGB", (40, 48), colour).save(folder / name / row["pictures"][0])


def photo_rows(name: str, label: str, stem: str) -> list[dict]:
    """The lines of one photograph."""
    kind = {"clothing": "class", "grocery": "class_coarse", "digits_sign": "digit"}[name]
    row = {
        "pictures": [f"pictures/{stem}.png"],
        "question": f"What {name}?",
        "answers": [label],
        "kind": kind,
    }
    if name == "digits_sign":
        row["answers"].append("a word")
    fine = {**row, "question": "Which apple?", "answers": ["Pink Lady"], "kind": "class_fine"}
    return [row, fine] if label == "apple" else [row]


def card_set(folder: Path, rng: np.random.Generator) -> None:
    """60 training and 20 other tables of 1 to 4 cards in a grid of 2 x 2, of very different sizes."""
    for part, count in (("train", 60), ("val", 20)):
        for number in range(count):
            image, boxes = Image.new("RGB", (200, 160), (100, 100, 100)), []
            for place in rng.permutation(4)[: rng.integers(1, 5)]:
                side = int(rng.integers(14, 60))
                left = int(place % 2 * 100 + rng.integers(2, 98 - side))
                top = int(place // 2 * 80 + rng.integers(2, 78 - side))
                box, rank = [left, top, left + side, top + side], str(rng.choice(RANKS))
                ImageDraw.Draw(image).rectangle(
                    (left, top, left + side - 1, top + side - 1), RANK_COLOUR[rank]
                )
                boxes.append({"label": rank, "box": box})
            base = {"pictures": [f"pictures/{part}{number}.png"], "boxes": boxes}
            ranks = sorted({box["label"] for box in boxes})
            rows = [{**base, "question": "Which ranks?", "answers": ranks, "kind": "ranks", "all": True}]
            rows.append({**base, "question": "How many?", "answers": [str(len(boxes))], "kind": "count"})
            write_set(folder / "cards", part, rows)
            image.save(folder / "cards" / rows[0]["pictures"][0])


def nlvr_set(folder: Path, rng: np.random.Generator) -> None:
    """80 training and 30 other pictures of up to 5 shapes a box on a grid, so that none touch."""
    for part, first, count in (("train", 0, 80), ("val", 500, 30)):
        for number in range(first, first + count):
            image, record = Image.new("RGB", (400, 100), (128, 128, 128)), []
            pen = ImageDraw.Draw(image)
            for start in (0, 150, 300):
                pen.rectangle((start, 0, start + 99, 99), GROUND)
                shapes = []
                for cell in rng.permutation(9)[: rng.integers(0, 6)]:
                    size = int(rng.choice((10, 20, 30)))
                    x, y = int(cell % 3 * 34), int(cell // 3 * 34 + rng.integers(0, 33 - size))
                    shape = str(rng.choice(("circle", "square", "triangle")))
                    colour = str(rng.choice(list(SHAPE_COLOUR)))
                    shapes.append([shape, colour, size, x, y])
                    draw_shape(pen, shape, (start + x, y, start + x + size - 1, y + size - 1), colour)
                record.append(shapes)
            name = f"pictures/dev-{number}-0-1.png"
            row = {"pictures": [name], "question": "Is this true?", "answers": ["yes"], "kind": "true_false"}
            write_set(folder / "nlvr", part, [row])
            image.save(folder / "nlvr" / name)
            with open(folder / "nlvr" / "scenes.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"image": name, "boxes": record}) + "\n")


def draw_shape(pen: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], colour: str) -> None:
    """A shape that fills its box."""
    left, top, right, bottom = box
    if shape == "triangle":
        pen.polygon(((left, bottom), (right, bottom), ((left + right) / 2, top)), SHAPE_COLOUR[colour])
    else:
        {"circle": pen.ellipse, "square": pen.rectangle}[shape](box, SHAPE_COLOUR[colour])


def local_sets(folder: Path) -> None:
    """Sets that only serve evaluation."""
    for name in ("daquar", "sroie"):
        for part in ("train", "val"):
            rows = [
                {
                    "pictures": [f"pictures/{part}{number}.png"],
                    "question": "What is the total?",
                    "answers": ["1.00", "RM1.00"],
                    "kind": "total",
                    "boxes": [
                        {"label": "total", "box": [0, 0, 10, 2]},
                        {"label": "total", "box": [0, 0, 90, 90]},
                    ],
                }
                for number in range(60)
            ]
            write_set(folder / name, part, rows)
            for row in rows:
                Image.new("RGB", (90, 90), "white").save(folder / name / row["pictures"][0])


def blobs(picture: Image.Image, colours: dict[str, tuple[int, int, int]]) -> list[tuple[str, tuple, int]]:
    """All connected areas of exactly one of these colours: (name, box, pixels)."""
    from scipy import ndimage

    codes, found = np.asarray(picture).astype(int) @ (65536, 256, 1), []
    present = set(np.unique(codes).tolist())
    for name, (red, green, blue) in colours.items():
        code = red * 65536 + green * 256 + blue
        if code not in present:
            continue
        areas, _ = ndimage.label(codes == code)
        for number, (rows, columns) in enumerate(ndimage.find_objects(areas), 1):
            box = (columns.start, rows.start, columns.stop, rows.stop)
            found.append((name, box, int((areas[rows, columns] == number).sum())))
    return found
