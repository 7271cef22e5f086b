"""Numbers of several handwritten digits, and printed words."""

import numpy as np

from ..drawing.canvas import SIDE, SMALL, Canvas, any_thing, layout, scatter
from ..drawing.glyphs import handwriting_ids, handwritten_mask
from ..drawing.lettering import FONTS, TEST_WORDS, in_line, printed, random_word
from .base import Drawn, Task


class Digits(Task):
    """2 to 4 of scikit-learn's handwritten digits in a row; no digit image occurs in two splits.

    The first digit is never 0. A guess is right at most once in 270. A sample is small if the ink of the
    whole number covers less than 3 % of the image.
    """

    name = "digits"
    description = "Read a number of 2 to 4 real handwritten digits."
    guess = 1 / 270
    group = "text"
    stream = 3
    needs = ("sklearn", "scikit-learn")
    phrases = ("What number is written?", "Which number do you see?", "Read the number.")

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        count = int(rng.integers(2, 5))
        size = int(rng.integers(30, 43) if rng.random() < 0.5 else rng.integers(52, 65))
        while True:
            samples = rng.choice(handwriting_ids(self.split), count)
            turns = rng.uniform(-8, 8, count)
            gaps = rng.integers(2, 7, count)
            for attempt in range(size, 0, -2):  # wide numbers are written a little smaller
                written = [handwritten_mask(int(s), attempt, t) for s, t in zip(samples, turns, strict=True)]
                if sum(mask.shape[1] for mask, _ in written) + gaps.sum() < SIDE - 4:
                    break
            if written[0][1] != 0:
                break
        line = in_line([mask for mask, _ in written], gaps, rng.integers(0, 5, count))
        answer = "".join(str(digit) for _, digit in written)
        return _written(self.phrases, rng, line, f"{count} digits", answer)


class Words(Task):
    """A word of 3 or 4 capitals.

    Train and val use random letters, which must be read letter by letter. Test uses 42 English words and font
    families (see ``illava_lab.drawing.lettering.FONTS``) that do not occur in training. A guess is right once
    in 42. A sample is small if the ink of the whole word covers less than 3 % of the image.
    """

    name = "words"
    description = "Read a printed word of 3 or 4 letters, in test an unseen word in an unseen font."
    guess = 1 / len(TEST_WORDS)
    group = "text"
    stream = 4
    needs = ("matplotlib", "matplotlib")
    phrases = ("What does it read?", "What is the word?", "Which word is written?")

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        word = str(rng.choice(TEST_WORDS)) if self.split == "test" else random_word(rng, self.split)
        size = int(rng.integers(22, 31) if rng.random() < 0.5 else rng.integers(38, 49))
        font = str(rng.choice(FONTS[self.split]))
        mask = printed(word, font, size)
        while mask.shape[1] > SIDE - 4:  # wide words are printed a little smaller
            size -= 2
            mask = printed(word, font, size)
        return _written(self.phrases, rng, mask, f"{len(word)} letters", word)


def _written(
    phrases: tuple[str, ...], rng: np.random.Generator, mask: np.ndarray, kind: str, answer: str
) -> Drawn:
    """Paint ``mask`` in ink at a random place among up to 3 shapes."""
    canvas = Canvas(rng)
    height, width = mask.shape
    ((left, top),) = layout(rng, [(width, height)])
    share = canvas.paint(mask, (left, top), canvas.ink)
    others = [any_thing(rng) for _ in range(rng.integers(0, 4))]
    taken = [(left, top, left + width, top + height)]
    scatter(canvas, rng, others, rng.integers(20, 31, len(others)), taken)
    return Drawn(kind, str(rng.choice(phrases)), answer, share < SMALL, (canvas.picture(rng),))
