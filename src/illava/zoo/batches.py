"""Training batches: pictures in Qwen2-VL's patch order and several questions packed behind each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from .questions import IGNORE, KINDS, Question, ask, dense_labels
from .scenes import Scene, draw_scene, scene_rng
from .text import MEAN, MERGE, PATCH, STD, TEMPORAL


def patchify(pictures: np.ndarray) -> torch.Tensor:
    """Turn uint8 (batch, size, size, 3) pictures into the processor's pixel values, unresized.

    Returns float32 (batch, patches, 3 * TEMPORAL * PATCH * PATCH), the patches of each merged unit
    next to each other, each picture repeated over the temporal axis.
    """
    batch, size, _, channels = pictures.shape
    x = ((pictures.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)
    units = size // PATCH // MERGE
    x = x.reshape(batch, units, MERGE, PATCH, units, MERGE, PATCH, channels)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]
    x = np.repeat(x, TEMPORAL, axis=6)
    return torch.from_numpy(x.reshape(batch, (units * MERGE) ** 2, -1))


@dataclass
class Batch:
    """``batch`` pictures of one size with their dense labels and packed questions, T tokens each.

    pixels: float32 (batch, patches, 384). dense: int64 (batch, units) per label. ids: int64 (batch, T).
    positions: int64 (3, batch, T). segments: int64 (batch, T), 0 for the picture's part, k for question
    k, -1 for padding. targets: int64 (batch, T), the next token at answer positions, else IGNORE.
    """

    pixels: torch.Tensor
    dense: dict[str, torch.Tensor]
    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    targets: torch.Tensor
    questions: list[list[Question]]


class Packer:
    """Tokenizes questions once and packs scenes into batches."""

    def __init__(self, processor: Qwen2VLProcessor):
        tokenizer = processor.tokenizer
        self.encode = lru_cache(maxsize=None)(lambda text: tokenizer(text)["input_ids"])
        self.picture_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.pad_id = tokenizer.pad_token_id
        self.prefix = self.encode("<|im_start|>user\n<|vision_start|>")

    def __call__(self, scenes: list[Scene], questions: list[list[Question]]) -> Batch:
        """Pack scenes of one picture size, each with its questions."""
        pictures = np.stack([scene.picture for scene in scenes])
        units = pictures.shape[1] // PATCH // MERGE
        labels = [dense_labels(scene, PATCH * MERGE) for scene in scenes]
        rows = [self._row(asked, units) for asked in questions]
        length = max(len(row[0]) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        segments = torch.full((len(rows), length), -1)
        targets = torch.full((len(rows), length), IGNORE)
        positions = torch.zeros((3, len(rows), length), dtype=torch.long)
        for i, row in enumerate(rows):
            n = len(row[0])
            ids[i, :n], segments[i, :n], targets[i, :n] = (torch.tensor(part) for part in row[:3])
            positions[:, i, :n] = torch.from_numpy(row[3])
        dense = {key: np.stack([label[key] for label in labels]) for key in labels[0]}
        dense = {key: torch.from_numpy(label).flatten(1, 2) for key, label in dense.items()}
        return Batch(patchify(pictures), dense, ids, positions, segments, targets, questions)

    def _row(self, asked: list[Question], units: int) -> tuple[list[int], list[int], list[int], np.ndarray]:
        """Ids, segments, targets and (3, T) positions of one picture with its questions."""
        ids = [*self.prefix, *[self.picture_id] * units**2]
        start = len(self.prefix)
        y, x = np.divmod(np.arange(units**2), units)
        places = [np.tile(np.arange(start), (3, 1)), np.stack([0 * x, y, x]) + start]
        segments, targets = [0] * len(ids), [IGNORE] * len(ids)
        for k, question in enumerate(asked, 1):
            prompt = self.encode(f"<|vision_end|>{question.text}<|im_end|>\n<|im_start|>assistant\n")
            answer = self.encode(f"{question.answer}<|im_end|>")
            ids += [*prompt, *answer]
            segments += [k] * (len(prompt) + len(answer))
            targets += [*[IGNORE] * (len(prompt) - 1), *answer, IGNORE]
            # As in a prompt of its own, each question starts where the picture's positions end.
            places.append(np.tile(np.arange(len(prompt) + len(answer)) + start + units, (3, 1)))
        return ids, segments, targets, np.concatenate(places, axis=1)


def training_batch(
    packer: Packer,
    seed: int,
    split: str,
    place: tuple[int, ...],
    size: int,
    n: int,
    most: int,
    kinds: Sequence[str] = KINDS,
) -> Batch:
    """Draw and pack ``n`` pictures with up to ``most`` questions each: a pure function of its arguments."""
    scenes, questions = [], []
    for i in range(n):
        rng = scene_rng(seed, split, *place, i)
        scenes.append(draw_scene(rng, size, split))
        questions.append(ask(scenes[-1], rng, most, kinds))
    return packer(scenes, questions)


def encode_pictures(model: Qwen2VLForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Run the vision tower on equally large square pictures at once.

    The same computation as ``model.model.visual``, which loops over pictures: here attention is batched
    and the patch convolution is one matrix product. Returns (batch, units, hidden size).
    """
    visual = model.model.visual
    batch, patches, _ = pixels.shape
    grid = torch.tensor([[1, int(patches**0.5), int(patches**0.5)]])
    weight = visual.patch_embed.proj.weight
    x = pixels @ weight.view(weight.shape[0], -1).T
    cos, sin = visual.rotary_pos_emb(x, _vision_positions(grid))
    cos, sin = cos[:, None].transpose(0, 1), sin[:, None].transpose(0, 1)  # (1, patches, head dim)
    half = cos.shape[-1] // 2
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(batch, patches, 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = (z * cos + torch.cat((-z[..., half:], z[..., :half]), -1) * sin for z in (q, k))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + attention.proj(mixed.transpose(1, 2).reshape(batch, patches, -1))
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x).view(batch, patches // MERGE**2, -1)


def _vision_positions(grid: torch.Tensor) -> torch.Tensor:
    from transformers.vision_utils import get_vision_position_ids

    return get_vision_position_ids(grid, MERGE)


def packed_hidden(
    model: Qwen2VLForConditionalGeneration, features: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """Run the language model on a packed batch; returns the last hidden states (batch, T, hidden size).

    Every question sees the picture's part and, causally, itself, so it is computed as if asked alone.
    """
    language = model.model.language_model
    embeds = language.embed_tokens(batch.ids)
    start = int((batch.segments[0] == 0).sum()) - features.shape[1]
    embeds = torch.cat([embeds[:, :start], features, embeds[:, start + features.shape[1] :]], dim=1)
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    causal = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool).tril()
    seen = ((query == key) | ((key == 0) & (query > 0))) & causal
    mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]
    return language(
        inputs_embeds=embeds,
        attention_mask={"full_attention": mask},
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
