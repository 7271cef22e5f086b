"""The training run: goes on where the last one ended, keeps what it reached, says how far it came."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from illava.ops import transfers

from ..data import stream
from .alignment import align
from .batches import Batch, Batches
from .model import PROJECTOR, TrainedModel, restore, save
from .recipe import AVERAGING, PROJECTOR_SHARE, RECIPES, WARMUP, Stage, place
from .scoring import score
from .state import read, write

WEIGHTS, STATE, LOG = "trained.safetensors", "state.pt", "log.jsonl"
LOGGED = 10
"""Steps between two lines of the log."""
ALIGNED = 3000
"""Photographs for the closed-form start, at 112 px."""


class Run:
    """A training run in a folder: weights to ship, the optimizer's state and a log.

    Args:
        encoder, llm: folders of the pretrained parts.
        output: where the run lives. If it holds a run, that one goes on.
        start: trained weights to begin with if ``output`` holds none.
        adapted: the encoder's adapters to begin with if ``output`` holds no run and ``start`` no weights.
        data: the picture sets.
    """

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
        self.step, self.warm = 0, 0
        output.mkdir(parents=True, exist_ok=True)
        self._begin(start, adapted or {})

    def _begin(self, start: Path | None, adapted: Mapping[str, Tensor]) -> None:
        state = self.output / STATE
        if state.exists():
            self._resume(state)
        else:
            if start is not None and start.exists():
                self.step = self._place(*restore(start, self.weights | self.model.settled()))
                self.model.encoder.settle()
            else:
                self._settle(adapted)
                draw = stream("photo", "train", self.seed, self.data)
                size = self.stages[0].sizes[0]
                fit = align(self.model, self.tokenizer, [draw(i) for i in range(ALIGNED)], size)
                self.say(
                    f"closed form: the nearest label is right for {fit.named:.0%} of {ALIGNED} photographs, "
                    f"places correlate {fit.down:.2f} (down) and {fit.across:.2f} (across)"
                )
            self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.say(f"step {self.step:,}")

    def _settle(self, adapted: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.model.settled().items():
                if name in adapted:
                    weight.copy_(adapted[name])
        self.model.encoder.settle()

    def _resume(self, state: Path) -> None:
        held = read(state)
        if held.get("recipe") != self.recipe:
            raise ValueError(
                f"{self.output} holds a run of recipe {held.get('recipe')} at step {held['step']:,}; "
                "give another folder"
            )
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(held["weights"][name])
        self._settle(held["settled"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.step, self.warm = held["step"], WARMUP
        self.average = {name: weight.to(self.device) for name, weight in held["average"].items()}

    def _place(self, recipe: str, stage: str, step: int) -> int:
        """Where to go on with weights of a run that was at ``step``: in another recipe at the same stage."""
        if recipe == self.recipe:
            return step
        first = 0
        for other in self.stages:
            if other.name == stage:
                return first
            first += other.steps
        return 0

    def go(self, minutes: float, every: int = 100, scenes: int = 24, save_every: float = 120) -> None:
        """Train for ``minutes``, or to the recipe's end.

        Args:
            every: steps after which ``scenes`` held-out scenes of each stream are scored.
            save_every: seconds.
        """
        end, loader = time.monotonic() + 60 * minutes, self._loader()
        losses: list[Tensor] = []
        since = saved = time.monotonic()
        for batch in loader:
            found = place(self.stages, self.step)
            assert found is not None
            losses.append(self._learn(batch, *found))
            self.step += 1
            done = time.monotonic() > end
            if self.step % LOGGED == 0 or done:
                # An accelerator is waited for here only.
                loss = torch.stack(losses).mean().item()
                seconds, since = time.monotonic() - since, time.monotonic()
                each = seconds / len(losses)
                losses.clear()
                self._log({"step": self.step, "stage": found[0].name, "loss": loss, "seconds": seconds})
                self.say(f"{self.step:6,} {found[0].name} loss {loss:.3f}, {each:.3f} s a step")
            if time.monotonic() > saved + save_every:
                self.save()
                saved = time.monotonic()
            if self.step % every == 0:
                self._score(found[0], scenes)
                since = time.monotonic()
            if done:
                break
        self.save()

    def _loader(self) -> Any:
        total = sum(stage.steps for stage in self.stages)
        batches = Batches(self.stages, self.tokenizer, self.data, self.seed)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=range(self.step, total),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            pin_memory=self.device.type in transfers.PINNED,
        )

    def _learn(self, batch: Batch, stage: Stage, first: int) -> Tensor:
        """One step; its loss, on the device."""
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
        # After its last step a run is still at the last stage.
        stage = (place(self.stages, self.step) or (self.stages[-1], 0))[0]
        settled = self.model.settled()
        save(self.output / WEIGHTS, self.average | settled, self.recipe, stage.name, self.step)
        state = {
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "average": self.average,
            "settled": {name: weight.detach() for name, weight in settled.items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "recipe": self.recipe,
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
        self._log({"step": self.step, "stage": stage.name, "right": counts})
        self.say(", ".join(f"{kind} {right}/{total}" for kind, (right, total) in counts.items()))

    def _log(self, line: dict[str, Any]) -> None:
        with (self.output / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")


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
