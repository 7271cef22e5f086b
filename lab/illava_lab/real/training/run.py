"""The training run: goes on where the last one ended, keeps what it reached, says how far it came."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from ..data import data_folder, stream
from .alignment import align
from .batches import Batch, Batches
from .model import PROJECTOR, Reached, TrainedModel, restore, save
from .reading_run import ReadingRun
from .recipe import AVERAGING, PROJECTOR_SHARE, RECIPES, WARMUP, Stage, place, text_begins
from .scoring import score
from .spelling import spell
from .state import read, restored, write
from .stepping import Stepping

WEIGHTS, STATE = "trained.safetensors", "state.pt"
ALIGNED = 3000
"""Photographs for the closed-form start, at 112 px."""
SPELT = 80
"""Lessons for the closed form of characters."""


class Run(Stepping):
    """A training run in a folder: weights to ship, the optimizer's state and a log.

    Args:
        encoder, llm: folders of the pretrained parts.
        output: where the run lives. If it holds a run, that one goes on.
        start: trained weights to begin with if ``output`` holds none.
        adapted: the encoder's adapters to begin with if ``output`` holds no run and ``start`` no weights.
        data: the picture sets.
    """

    logged = 10

    def __init__(
        self,
        encoder: Path,
        llm: Path,
        output: Path,
        recipe: str = "cpu",
        start: Path | None = None,
        adapted: Mapping[str, Tensor] | None = None,
        data: Path | None = None,
        device: str = "cpu",
        seed: int = 0,
        workers: int = 1,
        say: Callable[[str], None] = print,
    ):
        torch.manual_seed(seed)
        self.encoder = encoder
        self.recipe, self.stages = recipe, RECIPES[recipe]
        self.output, self.data, self.say = output, data, say
        self.device, self.seed, self.workers = torch.device(device), seed, workers
        self.tokenizer = AutoTokenizer.from_pretrained(llm)
        self.model = TrainedModel(encoder, llm, fastest_dtype(self.device), self.device)
        self.weights = self.model.trained()
        own = [w for k, w in self.weights.items() if k.startswith(PROJECTOR)]
        rest = [w for k, w in self.weights.items() if not k.startswith(PROJECTOR)]
        groups: list[dict[str, Any]] = [
            {"params": own, "share": PROJECTOR_SHARE},
            {"params": rest, "share": 1.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
        self.step, self.warm, self.reads = 0, 0, False
        output.mkdir(parents=True, exist_ok=True)
        self._begin(start, adapted)

    def _begin(self, start: Path | None, adapted: Mapping[str, Tensor] | None) -> None:
        state = self.output / STATE
        if state.exists():
            self._resume(state)
        elif start is not None and start.exists():
            reached = restore(start, self.weights | self.model.encoder_adapters())
            self.step, self.reads = self._place(reached), reached.reads
        else:
            if adapted is not None:
                restored(self.model.encoder_adapters(), adapted, self.output)
            self._align()
        self.model.encoder.freeze()
        if not state.exists():
            self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.say(f"step {self.step:,}")

    def _align(self) -> None:
        draw = stream("photo", "train", self.seed, self.data)
        scenes = [draw(number) for number in range(ALIGNED)]
        fit = align(self.model, self.tokenizer, scenes, self.stages[0].sizes[0])
        self.say(
            f"closed form: the nearest label is right for {fit.named:.0%} of {ALIGNED} photographs, "
            f"places correlate {fit.down:.2f} (down) and {fit.across:.2f} (across)"
        )

    def _resume(self, state: Path) -> None:
        held = read(state)
        if held.get("recipe") != self.recipe:
            raise ValueError(
                f"{self.output} holds a run of recipe {held.get('recipe')} at step {held['step']:,}; "
                "give another folder"
            )
        restored(
            self.weights | self.model.encoder_adapters(),
            held["weights"] | held["encoder"],
            self.output / STATE,
        )
        self.optimizer.load_state_dict(held["optimizer"])
        self.step, self.warm, self.reads = held["step"], WARMUP, held.get("reads", False)
        self.average = {name: weight.to(self.device) for name, weight in held["average"].items()}

    def _place(self, reached: Reached) -> int:
        """Where to go on with weights of a run: in another recipe at the same stage."""
        if reached.recipe == self.recipe:
            return reached.step
        first = 0
        for other in self.stages:
            if other.name == reached.stage:
                return first
            first += other.steps
        return 0

    def go(self, minutes: float, every: int = 100, scenes: int = 24) -> None:
        """Train for ``minutes``, or to the recipe's end.

        Before the first stage that shows text the encoder learns to read.

        Args:
            every: steps after which ``scenes`` held-out scenes of each stream are scored.
        """
        total, end = sum(stage.steps for stage in self.stages), time.monotonic() + 60 * minutes
        batches = Batches(self.stages, self.tokenizer, self.data, self.seed)

        def after_step() -> None:
            if self.step % every == 0:
                self._score(self._stage(self.step - 1)[0], scenes)

        first = None if self.reads else text_begins(self.stages)
        if first is not None:
            if self.step < first:
                self.train(batches, first, minutes, after_step)
                if time.monotonic() > end:
                    return
            if not self._learn_to_read((end - time.monotonic()) / 60):
                return
        self.train(batches, total, (end - time.monotonic()) / 60, after_step)

    def _learn_to_read(self, minutes: float) -> bool:
        """Train the encoder on text for ``minutes``; whether all is learnt, by the projector too."""
        adapters = self.model.encoder_adapters()
        leg = ReadingRun(
            self.encoder,
            adapters,
            self.output,
            data_folder(self.data),
            self.model.encoder.model.dtype,
            self.seed,
            device=str(self.device),
            workers=self.workers,
            say=self.say,
        )
        if not leg.go(minutes):
            self.say(f"step {leg.step:,} of {leg.steps:,} of the encoder on text; the next call goes on")
            return False
        restored(adapters, leg.adapters, self.output)
        self.model.encoder.freeze()
        own = {name: weight.detach().clone() for name, weight in self.weights.items() if PROJECTOR in name}
        fit = spell(self.model, leg.before, self.tokenizer, leg.lessons, SPELT)
        for name, weight in own.items():
            self.average[name] += self.weights[name].detach() - weight
        self.say(
            f"closed form: {fit.named:.0%} of patches are nearest to their character's embedding, tokens of "
            f"photographs moved by {fit.moved:.1%} of their variance"
        )
        self.reads = True
        self.save()
        return True

    def report(self, loss: float, seconds: float) -> None:
        stage, _ = self._stage(self.step - 1)
        self.log({"step": self.step, "stage": stage.name, "loss": loss, "seconds": seconds})
        self.say(f"{self.step:6,} {stage.name} loss {loss:.3f}, {seconds:.3f} s a step")

    def _stage(self, step: int) -> tuple[Stage, int]:
        """The stage of a step and its first step; after the last step it is still the last stage."""
        return place(self.stages, step) or (self.stages[-1], 0)

    def learn(self, batch: Batch) -> Tensor:
        stage, first = self._stage(self.step)
        warm = min(self.warm + 1, self.step - first + 1, WARMUP) / WARMUP
        self.warm += 1
        for group in self.optimizer.param_groups:
            group["lr"] = stage.rate * group["share"] * warm
        hidden, targets = self.model(*batch.to(self.device))
        loss = F.cross_entropy(self.model.llm.logits(hidden), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        share = min(AVERAGING, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - share)
        return loss.detach()

    def save(self) -> None:
        """Write the weights to ship, then all that is needed to go on."""
        stage, _ = self._stage(self.step)
        frozen = self.model.encoder_adapters()
        reached = Reached(self.recipe, stage.name, self.step, self.reads)
        save(self.output / WEIGHTS, self.average | frozen, reached)
        state = {
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "average": self.average,
            "encoder": {name: weight.detach() for name, weight in frozen.items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "recipe": self.recipe,
            "reads": self.reads,
        }
        write(self.output / STATE, state)

    def _score(self, stage: Stage, scenes: int) -> None:
        with torch.no_grad():
            current = {name: weight.clone() for name, weight in self.weights.items()}
            for name, weight in self.weights.items():
                weight.copy_(self.average[name])
            counts = score(
                self.model, self.tokenizer, list(stage.mixture), max(stage.sizes), scenes, self.data
            )
            for name, weight in self.weights.items():
                weight.copy_(current[name])
        self.log({"step": self.step, "stage": stage.name, "right": counts})
        self.say(", ".join(f"{kind} {right}/{total}" for kind, (right, total) in counts.items()))


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, unless this CPU multiplies float32 matrices faster, as those without AVX-512 BF16 do."""
    if device.type != "cpu":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(576, 576).to(dtype) for _ in range(2))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return min(seconds, key=seconds.__getitem__)
