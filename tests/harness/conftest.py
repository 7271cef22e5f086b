"""Local tasks of drawn questions for both harnesses, and what illava itself answers to them.

These tests need the environment of ``make test-harness``; in any other one they are not collected.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from illava_lab.tasks import load as load_task

from illava.evaluation.samples import Sample, normalized

# Read when the libraries are imported: nothing is fetched, in this process and in those it starts.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}

if not all(map(find_spec, ("lmms_eval", "lm_eval", "datasets"))):
    collect_ignore_glob = ["test_*.py"]

MODEL = "zoo/S"
NEW_TOKENS = 16
ROOT = Path(__file__).parents[2]
QUESTIONS = ("attribute", "existence", "multi_picture", "words")
YAML = """\
task: {task}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {folder}/test.parquet
test_split: test
doc_to_text: {text}
doc_to_target: answer
{more}metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
GENERATION = """\
output_type: generate_until
generation_kwargs:
  {length}: 16
  do_sample: false
  until: []
"""
CHOICE = """\
output_type: multiple_choice
doc_to_choice: choices
target_delimiter: ""
"""


@dataclass(frozen=True)
class Questions:
    """Drawn questions, and the folder with the tasks of the harnesses that ask them."""

    samples: list[Sample]
    folder: Path
    known: dict[str, list[str]] = field(default_factory=dict)
    """Answers by method."""

    def direct(self, method: Any) -> list[str]:
        """What the model answers to each question alone, with the prompts of ``illava eval``."""
        key = str(method.to_dict())
        if key not in self.known:
            self.known[key] = self._ask(method)
        return self.known[key]

    def _ask(self, method: Any) -> list[str]:
        import illava
        from illava.ask import load
        from illava.evaluation.prompts import inputs_of

        model, processor = load(MODEL, "cpu")
        answers = []
        with illava.accelerate(model, method):
            for sample in self.samples:
                inputs = inputs_of(model, processor, [sample])
                options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 1}
                new = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
                answers.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
        return answers

    def accuracy(self, answers: list[str]) -> float:
        """The share of right answers."""
        right = [
            normalized(answer) == normalized(s.answers[0])
            for answer, s in zip(answers, self.samples, strict=True)
        ]
        return sum(right) / len(right)


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Questions:
    """Twelve questions, three of which have several pictures."""
    import datasets

    folder = tmp_path_factory.mktemp("tasks")
    samples = [load_task(name)[number] for name in QUESTIONS for number in range(3)]
    rows = [
        {
            "pictures": list(sample.pictures),
            # lm-eval marks the places of pictures in the text; lmms-eval puts them first.
            "marked": "<image>" * len(sample.pictures) + sample.question,
            "question": sample.question,
            "answer": sample.answers[0],
            "choices": [sample.answers[0], "green", "no", "1"],
        }
        for sample in samples
    ]
    text, texts = datasets.Value("string"), datasets.Sequence(datasets.Value("string"))
    features = datasets.Features(
        {
            "pictures": datasets.Sequence(datasets.Image()),
            "marked": text,
            "question": text,
            "answer": text,
            "choices": texts,
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "test.parquet")
    visual, pictures = "doc_to_visual: !function pictures.of\n", "doc_to_image: pictures\n"
    tasks = {
        "lmms/drawn": ("question", "exact_match", visual + GENERATION.format(length="max_new_tokens")),
        "lmms/choice": ("question", "acc", visual + CHOICE),
        "lm/drawn": ("marked", "exact_match", pictures + GENERATION.format(length="max_gen_toks")),
        # lm-eval sends the marks to servers as they are.
        "lm/unmarked": ("question", "exact_match", pictures + GENERATION.format(length="max_gen_toks")),
    }
    for name, (asked, metric, more) in tasks.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        filled = YAML.format(task=file.stem, folder=folder, text=asked, metric=metric, more=more)
        if metric == "exact_match":
            filled += "    ignore_case: true\n"
        file.write_text(filled)
        (file.parent / "pictures.py").write_text("def of(doc):\n    return doc['pictures']\n")
    return Questions(samples, folder)


@dataclass(frozen=True)
class Run:
    """What a harness printed and wrote."""

    output: str
    results: dict[str, Any]
    samples: list[dict[str, Any]]
    """In the order of the questions."""

    @property
    def answers(self) -> list[str]:
        """The answer to every question."""
        given = [sample["filtered_resps"] for sample in self.samples]
        return [(answer if isinstance(answer, str) else answer[0]).strip() for answer in given]


def command(*words: object, output: Path, home: Path) -> Run:
    """Run a harness's command line in a process of its own."""
    env = {**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    line = [sys.executable, "-m", *map(str, words), "--output_path", str(output), "--log_samples"]
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=home, timeout=900)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    # lmms-eval exits with 0 after an error too.
    assert output.exists(), printed
    (results,) = output.rglob("*results*.json")
    (samples,) = output.rglob("*samples*.jsonl")
    lines = [json.loads(text) for text in samples.read_text().splitlines()]
    return Run(printed, json.loads(results.read_text()), sorted(lines, key=lambda line: line["doc_id"]))
