"""easy-VQA by Victor Zhou (MIT licence): an independent set of images and questions."""

from __future__ import annotations

import operator
from functools import lru_cache

import numpy as np
from PIL import Image

from illava.evaluation.samples import Sample

from ..drawing.canvas import SIDE, SMALL
from .base import Task

VAL_FROM = 3600  # the official train pictures from this one on are val: the package has train and test only
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


class EasyVQA(Task):
    """The package's images, enlarged from 64 x 64 to 192 x 192 pixels, and its questions, unchanged.

    Test is the official test split, 9,673 questions about 1,000 images; train and val divide the 4,000 images
    of the official train split. ``seed`` shuffles the questions, so that the first few are about many images.
    Without seeing the image, the most frequent answer in train to the same question ("is there a red shape?"
    no, seven times in eight) is right for two thirds of the test questions; the most frequent yes or no,
    shape and colour for 44 %. A sample is small if its only shape covers less than 3 % of the image.
    """

    name = "easy_vqa"
    description = "Answer easy-VQA's own questions about the one shape in each of its pictures."
    choices = ("yes", "no", *SHAPES, *COLOURS)
    guess = 0.67
    stream = 9
    needs = ("easy_vqa", "easy-vqa")

    def __init__(self, split: str = "test", seed: int = 0):
        super().__init__(split, seed)
        self._rows = _rows(split)
        self._order = np.random.default_rng([self.seed, self.stream]).permutation(len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Sample:
        """Return sample ``number``. Raises IndexError below 0 and from ``len()`` on."""
        number = operator.index(number)
        if not 0 <= number < len(self):
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}, there is no {number}")
        question, answer, picture_id, path = self._rows[self._order[number]]
        with Image.open(path) as file:
            picture = file.convert("RGB")
        ground = max(count for count, _ in picture.getcolors(picture.width * picture.height))
        return Sample(
            task=self.name,
            number=number,
            question=question,
            answers=(answer,),
            pictures=(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC),),
            cluster=f"{self.name}-{picture_id}",
            kind="shape" if answer in SHAPES else "colour" if answer in COLOURS else "existence",
            small=1 - ground / (picture.width * picture.height) < SMALL,
        )

    def by_picture(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Every picture's file with all its (question, answer), in the package's order."""
        found: dict[str, list[tuple[str, str]]] = {}
        for question, answer, _, path in self._rows:
            found.setdefault(path, []).append((question, answer))
        return list(found.items())


@lru_cache(maxsize=3)
def _rows(split: str) -> list[tuple[str, str, int, str]]:
    """(question, answer, number of the picture, its file) in the package's order."""
    package = EasyVQA.needed()
    if split == "test":
        questions, paths = package.get_test_questions(), package.get_test_image_paths()
    else:
        questions, paths = package.get_train_questions(), package.get_train_image_paths()
    rows = [(text, answer, i, paths[i]) for text, answer, i in zip(*questions, strict=True)]
    return [row for row in rows if split == "test" or (row[2] >= VAL_FROM) == (split == "val")]
