"""Train a zoo model from scratch on one or two CPU cores: ``python -m illava_lab.zoo.train L``.

Interrupt it at any time; the same command goes on from the last checkpoint and ends with the same weights,
as long as the code stays the same: the log says by which version of it each part was trained.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from ..drawing.canvas import COLOURS
from ..drawing.streams import scene_rng
from ..tasks.counting import PLURALS
from ..tasks.video import DIRECTIONS
from .batches import Batch, Packer, training_batch
from .curve import draw
from .forward import encode_pictures, packed_hidden
from .lessons import FORMS
from .losses import LABELS, Heads, Right, pointing_loss, tally_loss
from .model import SIZES, build_model, export
from .optim import Muon
from .questions import CLASSES, IGNORE
from .recipe import Recipe, Stage, learning_rate, recipe, trained
from .text import build_processor


class Trainer:
    """The model, dense-label heads, optimizer and place in the recipe."""

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.processor = build_processor()
        self.packer = Packer(self.processor)
        self.model = build_model(recipe.size, self.processor, recipe.seed).train()
        width = SIZES[recipe.size]["width"]
        self.heads = Heads(width)  # thrown away after training
        self.optimizers = self._optimizers()
        self.stage = self.step = 0
        self.seconds = 0.0
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._ahead: dict[tuple[int, int], Future[tuple[Batch, torch.Tensor | None]]] = {}

    def _optimizers(self) -> tuple[Muon, torch.optim.AdamW]:
        """Muon for the matrices inside the two towers, AdamW for embeddings, patches, heads and vectors."""
        named = dict(self.model.model.named_parameters())
        hidden = {k: w for k, w in named.items() if w.ndim == 2 and "embed" not in k}
        rest = [w for k, w in named.items() if k not in hidden]
        fused = [w for k, w in hidden.items() if "qkv" in k]
        plain = [w for k, w in hidden.items() if "qkv" not in k]
        groups = [{"params": fused, "blocks": 3}, {"params": plain, "blocks": 1}]
        muon = Muon(groups, weight_decay=self.recipe.weight_decay)
        rest += self.heads.parameters()
        adamw = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0)
        return muon, adamw

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint."""
        return self.folder / "checkpoint.pt"

    @property
    def _log(self) -> Path:
        return self.folder / "log.jsonl"

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "place": (self.stage, self.step, self.seconds),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def resume(self) -> None:
        """Resume from the checkpoint, if there is one, and drop the log lines after it.

        Raises ValueError when the checkpoint belongs to a recipe that differs in what was trained so far:
        stages still to come may change, and how long a stage at a constant rate lasts.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.exists():
            self._log.write_text("")
            return
        state = torch.load(self.checkpoint, weights_only=True)
        place = state["place"][:2]
        if trained(state["recipe"], *place) != trained(asdict(self.recipe), *place):
            raise ValueError(f"{self.checkpoint} was made by another recipe; move it away to start anew")
        stages = self.recipe.stages
        if place[0] < len(stages) and place[1] > stages[place[0]].steps:
            raise ValueError(f"{self.checkpoint} is further than its stage is to last; move it away")
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.stage, self.step, self.seconds = state["place"]
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        kept = [line for line in lines if (line["stage"], line["step"]) <= (self.stage, self.step)]
        self._log.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def loss(
        self, batch: Batch, stage: Stage, features: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss to minimise and its parts; ``features`` are the encoded images, if available."""
        if features is None:
            features = encode_pictures(self.model, batch.pixels)
        total, parts = features.new_zeros(()), {}
        if batch.dense:
            total, parts = self.heads.dense_loss(features, batch.dense)
        if stage.taught.most:
            asked = batch.targets != IGNORE
            hidden, middle, looks, tally = packed_hidden(self.model, features, batch)
            answer = hidden.new_zeros(())
            if asked.any():  # nothing may move in a clip
                answer = cross_entropy(self.model.lm_head(hidden[asked]), batch.targets[asked])
            reference = self.heads.reference_loss(middle, batch)
            pointing = pointing_loss(looks, batch.seen) + tally_loss(tally, batch.mentions, batch.seen)
            total = stage.dense * total + answer + stage.reference * reference + stage.pointing * pointing
            parts |= {
                name: part.item()
                for name, part in (("answer", answer), ("reference", reference), ("pointing", pointing))
            }
        return total, parts

    @torch.no_grad()
    def align_words(self) -> None:
        """Initialize the embeddings of shapes, colours, directions and characters from the encoder's
        features.

        By chance their embeddings would point anywhere, and most of the LLM's training would go into
        finding out which word belongs to which look.
        """
        tokenize = self.processor.tokenizer
        rows = dict(zip(LABELS, self.heads.dense.weight.split(list(LABELS.values())), strict=True))
        embedding = self.model.model.language_model.embed_tokens.weight
        kinds = (
            (CLASSES[1:], (rows["class"] + rows["centre"])[1:]),
            (tuple(COLOURS), rows["colour"]),
            (tuple(DIRECTIONS), rows["motion"][1:]),
        )
        for name, look, mean in (
            (name, look, looks.mean(0))
            for names, looks in kinds
            for name, look in zip(names, looks, strict=True)
        ):
            plural = PLURALS.get(name, name)
            for word in {name, f" {name}", plural, f" {plural}"}:
                ids = tokenize(word)["input_ids"]
                if len(ids) == 1:
                    direction = (look - mean) / (look - mean).norm().clamp(min=1e-6)
                    embedding[ids[0]] = 0.25 * embedding[ids[0]] + direction

    def _batch(self, form: str, split: str, *place: int) -> Batch:
        stage, seed = self.recipe.stages[self.stage], self.recipe.seed
        return training_batch(self.packer, form, stage.pixels, stage.batch, stage.taught, split, seed, *place)

    @torch.no_grad()
    def _prepare(self, place: int, step: int) -> tuple[Batch, torch.Tensor | None]:
        """The batch of a step, and its encoded images if the encoder is frozen."""
        stage = self.recipe.stages[place]
        form = str(scene_rng(self.recipe.seed, "train", place, step).choice(FORMS, p=stage.taught.forms))
        batch = self._batch(form, "train", place, step)
        return batch, encode_pictures(self.model, batch.pixels) if stage.frozen else None

    def _prepared(self, place: int, step: int) -> tuple[Batch, torch.Tensor | None]:
        """As :meth:`_prepare`; also starts preparing the next step in a separate thread."""
        ahead = self._ahead.pop((place, step), None)
        ready = ahead.result() if ahead else self._prepare(place, step)
        if step + 1 < self.recipe.stages[place].steps:
            self._ahead[place, step + 1] = self._worker.submit(self._prepare, place, step + 1)
        return ready

    def train_step(self) -> dict[str, float]:
        """Take one optimizer step at the current place and move on to the next."""
        stage = self.recipe.stages[self.stage]
        place = (self.stage, self.step)
        batch, features = self._prepared(*place)
        loss, parts = self.loss(batch, stage, features)
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
        """Return the accuracy on held-out lessons of every form, in the current stage's size.

        Per task (every answer token the likeliest one), or of units for dense labels.
        """
        stage = self.recipe.stages[self.stage]
        right: Right = {}
        for form, share in zip(FORMS, stage.taught.forms, strict=True):
            for place in range(batches if form == "scene" else batches // 2) if share else ():
                batch = self._batch(form, "val", FORMS.index(form), place)
                features = encode_pictures(self.model, batch.pixels)
                if batch.dense:
                    self.heads.score_dense(right, features, batch.dense)
                if stage.taught.most:
                    self._score_answers(right, features, batch)
        return {key: round(sum(hits) / len(hits), 4) for key, hits in sorted(right.items()) if hits}

    def _score_answers(self, right: Right, features: torch.Tensor, batch: Batch) -> None:
        hidden = packed_hidden(self.model, features, batch)
        self.heads.score_middle(right, hidden, batch)
        guess = self.model.lm_head(hidden.last).argmax(-1)
        wrong = (guess != batch.targets) & (batch.targets != IGNORE)
        for i, asked in enumerate(batch.questions):
            for k, question in enumerate(asked, 1):
                miss = bool((wrong[i] & (batch.segments[i] == k)).any())
                right.setdefault(question.task, []).append(not miss)

    def run(self, log_every: int = 20, check_every: int = 200, save_every: int = 50) -> None:
        """Train from the current place to the end of the recipe."""
        began = time.monotonic() - self.seconds
        if self.stage < len(self.recipe.stages):
            name = self.recipe.stages[self.stage].name
            self._write({"stage": self.stage, "name": name, "step": self.step, "code": code_version()})
        while self.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.stage]
            before = self.recipe.stages[: self.stage]
            if stage.taught.most and self.step == 0 and not any(leg.taught.most for leg in before):
                self.align_words()
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


def code_version() -> str:
    """A short hash of the code of data and training, logged whenever a training starts or resumes."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in ("drawing", "tasks", "zoo"):
        for file in sorted((package / folder).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def main(argv: list[str] | None = None) -> None:
    """Train and export a model; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m illava_lab.zoo.train", description=main.__doc__)
    parser.add_argument("size", choices=("S", "L"))
    parser.add_argument("--runs", type=Path, help="checkpoints and log; default: runs/zoo-SIZE")
    parser.add_argument("--out", type=Path, help="the exported model; default: in the package")
    parser.add_argument("--export-only", action="store_true", help="export the last checkpoint as it is")
    options = parser.parse_args(argv)
    runs = options.runs or Path(f"runs/zoo-{options.size}")
    out = options.out or Path(__file__).parent / "models" / options.size
    torch.set_num_threads(1)
    trainer = Trainer(recipe(options.size), runs)
    if options.export_only and not trainer.checkpoint.exists():
        parser.error(f"there is no checkpoint in {runs} to export")
    trainer.resume()
    if not options.export_only:
        trainer.run()
    export(trainer.model, trainer.processor, out)
    shutil.copy(runs / "log.jsonl", out / "training.jsonl")
    draw(out / "training.jsonl", out / "training.png", f"zoo/{options.size}")


if __name__ == "__main__":
    main()
