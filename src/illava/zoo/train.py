"""Train a zoo model from scratch on one CPU core: ``python -m illava.zoo.train L``.

Interrupt it at any time; the same command goes on from the last checkpoint and ends with the same weights.
"""

import argparse
import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ..drawing.canvas import COLOURS
from ..drawing.streams import scene_rng
from .batches import Batch, Packer, encode_pictures, packed_hidden, training_batch
from .lessons import FORMS
from .model import SIZES, build_model, export
from .optim import Muon
from .questions import CLASSES, IGNORE, LONGEST
from .text import build_processor

LABELS = {
    "class": len(CLASSES),
    "colour": len(COLOURS),
    "centre": len(CLASSES),
    "place": 1 + LONGEST,
    "ink": 64,
}
# Most of a picture is background and easy: hold it back, or it drowns the rest.
WEIGHTS = {name: torch.tensor([0.1] + [1.0] * (LABELS[name] - 1)) for name in ("class", "centre", "place")}
INK_WEIGHT = 5.0


SEEING = (0.85, 0.0, 0.0, 0.15)  # forms whose dense labels are known, one picture at a time


@dataclass(frozen=True)
class Stage:
    """One leg of the training: ``steps`` batches of as much as ``batch`` pictures of ``pixels`` x ``pixels``.

    ``questions`` is the most asked about a picture; 0 trains the encoder alone, on dense labels. ``shares``
    says how often a batch is of each of the ``FORMS``.
    Both learning rates rise over ``warmup`` steps to their full value and fall along a cosine to the
    share ``last`` of it: ``rate`` is Muon's, for hidden matrices, ``rate / 20`` AdamW's, for the rest.
    """

    name: str
    pixels: int
    batch: int
    steps: int
    questions: int
    rate: float = 0.02
    last: float = 0.05
    warmup: int = 40
    dense: float = 0.3  # weight of the dense-label loss next to the answers' loss
    shares: tuple[float, ...] = (0.6, 0.1, 0.15, 0.15)
    frozen: bool = False  # leave the encoder as it is, which takes most of the time in large pictures


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on."""

    size: str = "S"
    seed: int = 0
    weight_decay: float = 0.01  # of hidden matrices
    clip: float = 1.0
    stages: tuple[Stage, ...] = (
        Stage("dense-48", 48, batch=64, steps=400, questions=0, last=1.0, shares=SEEING),
        Stage("dense-96", 96, batch=16, steps=600, questions=0, shares=SEEING),
        Stage("ask-96", 96, batch=16, steps=600, questions=12, last=1.0, frozen=True),
        Stage("both-96", 96, batch=16, steps=500, questions=12, last=1.0),
        Stage("both-192", 192, batch=8, steps=600, questions=12, rate=0.01, last=0.02, warmup=10),
    )


class Trainer:
    """The model, dense-label heads, optimizer and place in the recipe."""

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.processor = build_processor()
        self.packer = Packer(self.processor)
        self.model = build_model(recipe.size, self.processor, recipe.seed).train()
        width = SIZES[recipe.size]["width"]
        self.heads = torch.nn.Linear(width, sum(LABELS.values()))  # thrown away after training
        with torch.no_grad():
            self.heads.weight.zero_()
            self.heads.bias.zero_()
        self.optimizers = self._optimizers()
        self.stage = self.step = 0
        self.seconds = 0.0

    def _optimizers(self) -> tuple[Muon, torch.optim.AdamW]:
        """Muon for the matrices inside the two towers, AdamW for embeddings, patches, heads and vectors."""
        named = dict(self.model.model.named_parameters())
        hidden = {k: w for k, w in named.items() if w.ndim == 2 and "embed" not in k}
        rest = [w for k, w in named.items() if k not in hidden]
        fused = [w for k, w in hidden.items() if "qkv" in k]
        plain = [w for k, w in hidden.items() if "qkv" not in k]
        groups = [{"params": fused, "blocks": 3}, {"params": plain, "blocks": 1}]
        muon = Muon(groups, weight_decay=self.recipe.weight_decay)
        adamw = torch.optim.AdamW([*rest, *self.heads.parameters()], betas=(0.9, 0.98), weight_decay=0.0)
        return muon, adamw

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _log(self) -> Path:
        return self.folder / "log.jsonl"

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only once the new one is complete."""
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "place": (self.stage, self.step, self.seconds),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint if there is one, and drop log lines written after it.

        Raises ValueError when the checkpoint belongs to a recipe that differs in what was trained so far:
        stages still to come may change, and how long a stage at a constant rate lasts.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._checkpoint.exists():
            self._log.write_text("")
            return
        state = torch.load(self._checkpoint, weights_only=True)
        place = state["place"][:2]
        if _trained(state["recipe"], *place) != _trained(asdict(self.recipe), *place):
            raise ValueError(f"{self._checkpoint} was made by another recipe; move it away to start anew")
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.stage, self.step, self.seconds = state["place"]
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        kept = [line for line in lines if (line["stage"], line["step"]) <= (self.stage, self.step)]
        self._log.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def dense_logits(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return (batch, units, classes) logits per dense label from (batch, units, width) features."""
        parts = self.heads(features).split(list(LABELS.values()), dim=-1)
        return dict(zip(LABELS, parts, strict=True))

    def loss(self, batch: Batch, stage: Stage) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss to minimise and its parts."""
        with torch.set_grad_enabled(not stage.frozen):
            features = encode_pictures(self.model, batch.pixels)
        total, parts = features.new_zeros(()), {}
        if batch.dense:
            logits = self.dense_logits(features)
            ink = binary_cross_entropy_with_logits(logits.pop("ink"), batch.dense["ink"])
            dense = {"ink": INK_WEIGHT * ink}
            for label, part in logits.items():
                told = batch.dense[label].flatten()
                dense[label] = cross_entropy(
                    part.flatten(0, 1), told, WEIGHTS.get(label), ignore_index=IGNORE
                )
            total = sum(part for part in dense.values() if not part.isnan())
            parts = {label: part.item() for label, part in dense.items()}
        if stage.questions:
            asked = batch.targets != IGNORE
            hidden = packed_hidden(self.model, features, batch)[asked]
            answer = cross_entropy(self.model.lm_head(hidden), batch.targets[asked])
            total = stage.dense * total + answer
            parts["answer"] = answer.item()
        return total, parts

    def _batch(self, form: str, split: str, *place: int) -> Batch:
        stage, seed = self.recipe.stages[self.stage], self.recipe.seed
        return training_batch(
            self.packer, form, stage.pixels, stage.batch, stage.questions, split, seed, *place
        )

    def train_step(self) -> dict[str, float]:
        """Take one optimizer step at the current place and move on to the next."""
        stage = self.recipe.stages[self.stage]
        place = (self.stage, self.step)
        form = str(scene_rng(self.recipe.seed, "train", *place).choice(FORMS, p=stage.shares))
        batch = self._batch(form, "train", *place)
        loss, parts = self.loss(batch, stage)
        loss.backward()
        weights = [*self.model.parameters(), *self.heads.parameters()]
        parts["norm"] = torch.nn.utils.clip_grad_norm_(weights, self.recipe.clip).item()
        parts["rate"] = learning_rate(stage, self.step)
        for optimizer, share in zip(self.optimizers, (1.0, 1 / 20), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = parts["rate"] * share
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return parts

    @torch.no_grad()
    def validate(self, batches: int = 12) -> dict[str, float]:
        """Return the share right on held-out lessons of the current stage's size, drawn from every form.

        Per task (every answer token the likeliest one), or of units for dense labels.
        """
        stage = self.recipe.stages[self.stage]
        right: dict[str, list[bool]] = {}
        for form, share in zip(FORMS, stage.shares, strict=True):
            for place in range(batches if form == "scene" else batches // 2) if share else ():
                batch = self._batch(form, "val", FORMS.index(form), place)
                features = encode_pictures(self.model, batch.pixels)
                if batch.dense:
                    self._score_dense(right, features, batch)
                if stage.questions:
                    self._score_answers(right, features, batch)
        return {key: round(sum(hits) / len(hits), 4) for key, hits in sorted(right.items()) if hits}

    def _score_dense(self, right: dict[str, list[bool]], features: torch.Tensor, batch: Batch) -> None:
        for label, logits in self.dense_logits(features).items():
            if label == "ink":
                hits = ((logits > 0) == (batch.dense["ink"] > 0.5)).flatten()
            else:
                told = batch.dense[label] > (-1 if label == "colour" else 0)
                hits = (logits.argmax(-1) == batch.dense[label])[told]
            right.setdefault(f"dense {label}", []).extend(hits.tolist())

    def _score_answers(self, right: dict[str, list[bool]], features: torch.Tensor, batch: Batch) -> None:
        guess = self.model.lm_head(packed_hidden(self.model, features, batch)).argmax(-1)
        wrong = (guess != batch.targets) & (batch.targets != IGNORE)
        for i, asked in enumerate(batch.questions):
            for k, question in enumerate(asked, 1):
                miss = bool((wrong[i] & (batch.segments[i] == k)).any())
                right.setdefault(question.task, []).append(not miss)

    def run(self, log_every: int = 20, check_every: int = 200, save_every: int = 50) -> None:
        """Train from the current place to the end of the recipe."""
        began = time.monotonic() - self.seconds
        while self.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.stage]
            while self.step < stage.steps:
                parts = self.train_step()
                if self.step % check_every == 0 or self.step == stage.steps:
                    parts["val"] = self.validate()
                self.seconds = time.monotonic() - began
                if self.step % log_every == 0 or "val" in parts:
                    self._write({"stage": self.stage, "name": stage.name, "step": self.step, **parts})
                if self.step % save_every == 0:
                    self.save()
            self.stage, self.step = self.stage + 1, 0
            self.save()

    def _write(self, line: dict) -> None:
        line["seconds"] = round(self.seconds)
        line = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def _trained(recipe: dict, stage: int, step: int) -> dict:
    """The part of a recipe (as a dictionary) that has shaped the weights by ``step`` of ``stage``."""
    stages = [dict(leg) for leg in recipe["stages"][: stage + (step > 0)]]
    if stages[stage:] and stages[stage]["last"] == 1.0:
        del stages[stage]["steps"]
    return {**recipe, "stages": stages}


def learning_rate(stage: Stage, step: int) -> float:
    """Return the rate of ``step`` (from 0): linear warm-up, then a cosine down to ``rate * last``."""
    warm = min(1.0, (step + 1) / stage.warmup)
    fall = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return stage.rate * warm * (stage.last + (1 - stage.last) * fall)


def main(argv: list[str] | None = None) -> None:
    """Train, then export the model into the package: see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m illava.zoo.train", description=main.__doc__)
    parser.add_argument("size", choices=("S", "L"))
    parser.add_argument("--runs", type=Path, help="checkpoints and log: runs/zoo-SIZE unless said otherwise")
    parser.add_argument("--out", type=Path, help="the export: into the package unless said otherwise")
    parser.add_argument("--export-only", action="store_true", help="export the last checkpoint as it is")
    options = parser.parse_args(argv)
    runs = options.runs or Path(f"runs/zoo-{options.size}")
    out = options.out or Path(__file__).parent / "models" / options.size
    torch.set_num_threads(1)
    trainer = Trainer(Recipe(options.size), runs)
    trainer.resume()
    if not options.export_only:
        trainer.run()
    export(trainer.model, trainer.processor, out)
    shutil.copy(runs / "log.jsonl", out / "training.jsonl")


if __name__ == "__main__":
    main()
