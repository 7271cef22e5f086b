"""The torch side of openvino_worker.py: exports random weights for OpenVINO, and asks its process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

from illava.bench import published
from illava_lab.benchmarks.openvino_worker import tokenizer

WORKER = Path(__file__).resolve().with_name("openvino_worker.py")
INSTALL = (
    "python3 -m venv .venv-openvino && .venv-openvino/bin/pip install "
    "openvino-genai==2026.4.1.0 optimum-intel==2.2.0 transformers==5.0.0"
)
SHAPE = "qwen2-vl-2b"


def build(blocks: int, layers: int) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(0)
    config = published.config(SHAPE, max(blocks, layers))
    config.vision_config.depth = blocks
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = config.text_config.layer_types[:layers]
    model = Qwen2VLForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def exported(python: Path, folder: Path, blocks: int, layers: int, environment: dict[str, str]) -> Path:
    """The same weights as OpenVINO IR, from an earlier run or exported now."""
    target = folder / f"{SHAPE}-{blocks}-{layers}-torch{torch.__version__}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source, partial = Path(scratch, "source"), Path(scratch, "exported")
        for part in (build(blocks, layers), tokenizer(), Qwen2VLImageProcessor()):
            part.save_pretrained(source)
        print("exporting to OpenVINO, a few minutes ...", file=sys.stderr)
        command = [str(python), str(WORKER), "export", str(source), str(partial)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stderr[-2000:]}\nthe export failed; the environment is made by: {INSTALL}")
        shutil.move(partial, target)
    return target


class Client:
    """The OpenVINO process, which waits while torch runs."""

    def __init__(
        self, python: Path, folder: Path, options: dict[str, Any], environment: dict[str, str]
    ) -> None:
        command = [str(python), str(WORKER), "serve", str(folder), json.dumps(options)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.versions = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the OpenVINO process stopped; its environment is made by: {INSTALL}")
        return json.loads(line)

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()
