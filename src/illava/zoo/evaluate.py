"""Score a model on unseen scenes, plain, merged and blind: ``python -m illava.zoo.evaluate``."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from ..files import replacing
from ..handle import accelerate
from ..methods import Illava, Method
from . import names, path
from .questions import KINDS, ask
from .scenes import draw_scene, scene_rng

PIXELS = 192
SEED = 1


@dataclass(frozen=True)
class Sample:
    """A question about an RGB picture.

    ``detail`` is "hand" or "print" for digits, else empty.
    """

    picture: Image.Image
    question: str
    answer: str
    kind: str
    detail: str = ""


def draw_samples(
    n: int, seed: int = SEED, pixels: int = PIXELS, kinds: Sequence[str] = KINDS, split: str = "test"
) -> list[Sample]:
    """Draw ``n`` samples of each kind, one per scene, from ``split``: the same ones for the same arguments.

    Pictures are ``pixels`` x ``pixels``. Raises ValueError for an unknown kind or split.
    """
    samples = []
    for number, kind in enumerate(kinds):
        drawn = place = 0
        while drawn < n:
            rng = scene_rng(seed, split, number, place)
            scene = draw_scene(rng, pixels, split)
            place += 1
            for question in ask(scene, rng, 1, [kind]):
                detail = scene.of_kind("digit")[0].writing if kind == "digit" else ""
                picture = Image.fromarray(scene.picture)
                samples.append(Sample(picture, question.text, question.answer, kind, detail))
                drawn += 1
    return samples


def without_pictures(samples: Sequence[Sample]) -> list[Sample]:
    """Return the same questions about plain grey pictures: what is still right was guessed."""
    return [replace(s, picture=Image.new("RGB", s.picture.size, (128, 128, 128))) for s in samples]


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    batch_size: int = 16,
    max_new_tokens: int = 8,
) -> list[str]:
    """Return the model's greedy answer to every sample, stripped of special tokens and outer spaces."""
    texts = []
    for start in range(0, len(samples), batch_size):
        some = samples[start : start + batch_size]
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": s.question}]}]
            for s in some
        ]
        prompts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        pictures = [s.picture for s in some]
        inputs = processor(text=prompts, images=pictures, padding=True, return_tensors="pt").to(model.device)
        made = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        texts += processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def score(samples: Sequence[Sample], given: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return ``{"n": questions, "right": exact matches, "accuracy": share}`` per kind and per kind/detail.

    Raises ValueError when there is not one answer per sample.
    """
    if len(samples) != len(given):
        raise ValueError(f"need one answer per sample: {len(samples)} samples but {len(given)} answers")
    hits: dict[str, list[bool]] = {}
    for sample, text in zip(samples, given, strict=True):
        for key in [sample.kind, *([f"{sample.kind}/{sample.detail}"] if sample.detail else [])]:
            hits.setdefault(key, []).append(text == sample.answer)
    return {k: {"n": len(v), "right": sum(v), "accuracy": round(sum(v) / len(v), 4)} for k, v in hits.items()}


def evaluate(
    model: PreTrainedModel, processor: ProcessorMixin, samples: Sequence[Sample], batch_size: int = 16
) -> dict[str, dict[str, float]]:
    """Answer all samples with ``model``, accelerated or not, and :func:`score` the answers."""
    return score(samples, answers(model, processor, samples, batch_size))


def evaluate_merged(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    method: Method,
    plain: Sequence[str],
) -> dict[str, object]:
    """Answer all samples with ``model`` accelerated by ``method``; ``plain`` are the plain model's answers.

    Returns the method, the tokens that the last batch kept, the share of answers that agree with the plain
    model's, and the :func:`score` of the answers.
    """
    with accelerate(model, method) as handle:
        given = answers(model, processor, samples)
        report = handle.report
    return {
        "method": method.to_dict(),
        "steps": [f"{step.stage} {step.layer}" for step in report.steps],
        "final_tokens_share": round(report.final_tokens / report.visual_tokens, 4),
        "average_tokens_share": round(report.average_tokens / report.visual_tokens, 4),
        "agreement": round(sum(a == b for a, b in zip(given, plain, strict=True)) / len(given), 4),
        "kinds": score(samples, given),
    }


def main(argv: list[str] | None = None) -> None:
    """Evaluate a zoo model, plain and merged, and write its figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m illava.zoo.evaluate", description=main.__doc__)
    parser.add_argument("--model", default="zoo/S", help="a name in the zoo or a folder")
    parser.add_argument("--n", type=int, default=300, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--keep", nargs="*", default=["1/3"], help="budgets beside the published schedule: 1/3 or 0.2"
    )
    parser.add_argument("--out", type=Path, help="where to write the JSON; printed as well")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    folder = path(options.model) if options.model in names() else Path(options.model)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()
    processor = AutoProcessor.from_pretrained(folder)
    samples = draw_samples(options.n, options.seed, split=options.split)
    plain = answers(model, processor, samples)
    methods = {"published schedule": Illava()}
    methods |= {f"keep {keep}": Illava(keep=Fraction(keep)) for keep in options.keep}
    figures = {
        "model": options.model,
        "pixels": PIXELS,
        "split": options.split,
        "seed": options.seed,
        "dtype": options.dtype,
        "picture": score(samples, plain),
        "blank": evaluate(model, processor, without_pictures(samples)),
        "merged": {
            name: evaluate_merged(model, processor, samples, method, plain)
            for name, method in methods.items()
        },
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        with replacing(options.out) as partial:
            partial.write_text(text + "\n")


if __name__ == "__main__":
    main()
