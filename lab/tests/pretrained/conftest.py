"""A tiny random DINOv2 and a folder of drawn photographs in the layout of the data."""

import json

import pytest
import torch
import transformers
from illava_lab.benchmarks.pretrained import encoder
from illava_lab.benchmarks.pretrained.settings import KINDS
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


@pytest.fixture(scope="session")
def runner():
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=12, num_attention_heads=3, mlp_ratio=2, image_size=84, patch_size=14
    )
    return encoder.Runner(encoder.assemble(transformers.Dinov2Model(config)))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Plain colours; the classes of a set are colours, brighter or darker by set and number."""
    where = tmp_path_factory.mktemp("data")
    for shade, (name, kind) in enumerate(KINDS.items()):
        (where / name / "pictures").mkdir(parents=True)
        for part, count in (("train", 12), ("val", 6)):
            lines = []
            for label, colour in COLOURS.items():
                for number in range(count):
                    file = f"pictures/{part}-{label}-{number}.png"
                    shown = tuple(max(0, value - 25 * shade - number) for value in colour)
                    Image.new("RGB", (40, 30), shown).save(where / name / file)
                    lines.append({"pictures": [file], "answers": [label], "kind": kind})
                    lines.append({"pictures": [file], "answers": ["other"], "kind": "another question"})
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (where / name / f"{part}.jsonl").write_text(text)
    return where
