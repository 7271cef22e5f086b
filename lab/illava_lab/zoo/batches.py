"""Training batches: images in Qwen2-VL's patch order, each with several packed questions after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import Qwen2VLProcessor

from ..drawing.canvas import SIDE
from ..drawing.streams import scene_rng
from ..tasks import video
from .lessons import Lesson, Syllabus, draw_lesson
from .questions import IGNORE, REFERENCE, Question
from .text import MEAN, MERGE, PATCH, STD, TEMPORAL


def patchify(pairs: np.ndarray) -> torch.Tensor:
    """Turn uint8 (batch, TEMPORAL, side, side, 3) pictures into the processor's pixel values, unresized.

    A picture stands there twice, of a video two frames. Returns float32 (batch, patches,
    3 * TEMPORAL * PATCH * PATCH), the patches of each merged unit next to each other.
    """
    batch, times, side, _, channels = pairs.shape
    x = ((pairs.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)
    units = side // PATCH // MERGE
    x = x.reshape(batch, times, units, MERGE, PATCH, units, MERGE, PATCH, channels)
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return torch.from_numpy(np.ascontiguousarray(x).reshape(batch, (units * MERGE) ** 2, -1))


SMALLER = 64  # pixels of several pictures in the beginning
MORE = {"page": 2.5, "clip": 1.5, "video": 2.0}  # rows of questions, where few can be asked of one


# The position of a mention in a row, the facts it stands for, and the (picture, row, column) of the visual
# tokens it refers to.
PlacedMention = tuple[int, dict[str, int], tuple[tuple[int, int, int], ...]]


@dataclass
class Batch:
    """``batch`` rows of n pictures (or pairs of frames) each, with their packed questions, T tokens a row.

    pixels: float32 (batch * n, patches, 384). dense: int64 (batch * n, units) per label, of ink
    float32 (batch * n, units, 64), None where unknown.
    ids: int64 (batch, T). positions: int64 (3, batch, T). segments: int64 (batch, T), 0 for the pictures'
    part, k for question k, -1 for padding. targets: int64 (batch, T), the next token at answer positions,
    else IGNORE. visual: int64 (n * units,), where in every row the pictures' tokens are. mentions: int64
    (M, 2 + 7), row and place of the last token of every mention, and of the token before every character to
    be read, and what is told of it, in the order of ``REFERENCE``, else IGNORE. seen: float32 (M, n * units),
    the shares of attention that the visual tokens with what it means should have, all 0 where unknown.
    corners: int64 (batch, 2), row and column of the pictures' first visual tokens.
    """

    pixels: torch.Tensor
    dense: dict[str, torch.Tensor] | None
    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    targets: torch.Tensor
    visual: torch.Tensor
    mentions: torch.Tensor
    seen: torch.Tensor
    corners: torch.Tensor
    questions: list[list[Question]]


class Packer:
    """Tokenizes questions once and packs lessons of one layout into batches."""

    def __init__(self, processor: Qwen2VLProcessor):
        tokenizer = processor.tokenizer
        self.encode = lru_cache(maxsize=2**16)(lambda text: tokenizer(text)["input_ids"])
        self.picture_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.frame_id = tokenizer.convert_tokens_to_ids("<|video_pad|>")
        self.end_id = tokenizer.convert_tokens_to_ids("<|vision_end|>")
        self.pad_id = tokenizer.pad_token_id

    def __call__(
        self, lessons: list[Lesson], room: int = 0, corners: Sequence[tuple[int, int]] | None = None
    ) -> Batch:
        """Pack lessons with equally many, equally large pictures, or with a video each.

        Positions are those of a crop from a larger image of ``room`` x ``room`` visual tokens: a lesson's
        images start at the row and column of its corner, (0, 0) if None.
        """
        corners = corners or [(0, 0)] * len(lessons)
        pairs = np.stack([lesson.pairs for lesson in lessons])
        n, side = pairs.shape[1], pairs.shape[3]
        units = side // PATCH // MERGE
        shared = self._pictures(n, units, lessons[0].video, max(units, room))
        rows = [self._row(shared, lesson, corner) for lesson, corner in zip(lessons, corners, strict=True)]
        length = max(len(row[0]) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        segments = torch.full((len(rows), length), -1)
        targets = torch.full((len(rows), length), IGNORE)
        positions = torch.zeros((3, len(rows), length), dtype=torch.long)
        mentions: list[list[int]] = []
        seen: list[torch.Tensor] = []
        for i, row in enumerate(rows):
            width = len(row[0])
            ids[i, :width], segments[i, :width], targets[i, :width] = (torch.tensor(part) for part in row[:3])
            positions[:, i, :width] = torch.from_numpy(row[3])
            for place, known, spots in row[4]:
                moved = zip(("row", "column"), corners[i], strict=True)
                facts = known | {name: known[name] + shift for name, shift in moved if name in known}
                mentions.append([i, place, *(facts.get(name, IGNORE) for name in REFERENCE)])
                seen.append(torch.zeros(n * units**2))
                for picture, y, x in spots:
                    seen[-1][(picture * units + y) * units + x] = 1 / len(spots)
        dense = None
        if all(lesson.labels for lesson in lessons):
            dense = {
                key: torch.from_numpy(np.concatenate([lesson.labels[key] for lesson in lessons])).flatten(
                    1, 2
                )
                for key in lessons[0].labels
            }
        visual = torch.tensor(
            [i for i, one in enumerate(shared[0]) if one in (self.picture_id, self.frame_id)]
        )
        questions = [lesson.questions for lesson in lessons]
        return Batch(
            patchify(pairs.reshape(-1, *pairs.shape[2:])),
            dense,
            ids,
            positions,
            segments,
            targets,
            visual,
            torch.tensor(mentions, dtype=torch.long).view(-1, 2 + len(REFERENCE)),
            torch.stack(seen) if seen else torch.zeros(0, n * units**2),
            torch.tensor(corners),
            questions,
        )

    def _pictures(self, n: int, units: int, is_video: bool, room: int) -> tuple[list[int], np.ndarray, int]:
        """Ids and (3, T) positions of the pictures' part of a prompt, and the position that comes next."""
        ids: list[int] = []
        places, start = [], 0

        def append_text(text: str) -> None:
            nonlocal start
            tokens = self.encode(text)
            ids.extend(tokens)
            places.append(np.tile(np.arange(len(tokens)) + start, (3, 1)))
            start += len(tokens)

        append_text("<|im_start|>user\n")
        y, x = np.divmod(np.arange(units**2), units)
        for frames in [n] if is_video else [1] * n:
            append_text("<|vision_start|>")
            ids.extend([self.frame_id if is_video else self.picture_id] * frames * units**2)
            places += [np.stack([0 * x + time, y, x]) + start for time in range(frames)]
            start += room
            append_text("<|vision_end|>")
        return ids, np.concatenate(places, axis=1), start

    def _row(
        self, shared: tuple[list[int], np.ndarray, int], lesson: Lesson, corner: tuple[int, int]
    ) -> tuple[list[int], list[int], list[int], np.ndarray, list[PlacedMention]]:
        """Ids, segments, targets, (3, T) positions and mentions of one row: the pictures, then questions."""
        ids, start = [*shared[0]], shared[2]
        visual = np.isin(ids, (self.picture_id, self.frame_id))
        places = [shared[1] + visual * np.array([[0], [corner[0]], [corner[1]]])]
        segments, targets = [0] * len(ids), [IGNORE] * len(ids)
        ends = [place for place, token in enumerate(ids) if token == self.end_id]
        mentions: list[PlacedMention] = [
            (ends[i], reference.facts, reference.seen) for i, reference in enumerate(lesson.closing)
        ]
        for k, question in enumerate(lesson.questions, 1):
            for reference in question.mentions:
                # Words are tokenized one by one, so the tokens of a beginning are the beginning's tokens.
                place = len(ids) + len(self.encode(question.text[: reference.end])) - 1
                mentions.append((place, reference.facts, reference.seen))
            prompt = self.encode(f"{question.text}<|im_end|>\n<|im_start|>assistant\n")
            answer = self.encode(f"{question.answer}<|im_end|>")
            # The token before each character predicts it; every character is one token.
            for i, facts in enumerate(question.spelled):
                place = len(ids) + len(prompt) - 1 + i
                mentions.append((place, facts, ((0, facts["row"], facts["column"]),)))
            ids += [*prompt, *answer]
            segments += [k] * (len(prompt) + len(answer))
            targets += [*[IGNORE] * (len(prompt) - 1), *answer, IGNORE]
            # As in a prompt with one question, positions continue after the images.
            places.append(np.tile(np.arange(len(prompt) + len(answer)) + start, (3, 1)))
        return ids, segments, targets, np.concatenate(places, axis=1), mentions


def training_batch(
    packer: Packer,
    form: str,
    side: int,
    pictures: int,
    syllabus: Syllabus,
    split: str,
    seed: int,
    *place: int,
) -> Batch:
    """Draw and pack lessons of one form, about as much work as ``pictures`` scenes of side x side.

    While images are small, several are smaller still, and forms with few questions get more rows, because
    training needs many questions of every kind. A pure function of its arguments.
    """
    # A separate stream: the stream of ``place`` has already chosen the form.
    count = int(scene_rng(seed, split, *place, 2**20).integers(2, 5)) if form == "multi_picture" else 1
    early = side < SIDE
    drawn = {"multi_picture": min(side, SMALLER) if early else side, "video": video.SIDE, "clip": video.SIDE}
    edge = drawn.get(form, side)
    images = video.FRAMES // TEMPORAL if form == "video" else count
    rows = pictures * side**2 / (images * edge**2)
    if syllabus.most and (early or form == "page"):
        rows *= MORE.get(form, 1.0)
    lessons = [
        draw_lesson(form, edge, count, syllabus, split, seed, *place, i) for i in range(max(2, round(rows)))
    ]
    if not early or form in ("video", "clip"):  # whose frames are as large as in the task
        return packer(lessons)
    # Place small images anywhere in a large one: the LLM learns all positions at a quarter of the cost.
    spare = (SIDE - edge) // PATCH // MERGE
    corners = scene_rng(seed, split, *place, 2**21).integers(0, spare + 1, (len(lessons), 2)).tolist()
    return packer(lessons, SIDE // PATCH // MERGE, [(y, x) for y, x in corners])
