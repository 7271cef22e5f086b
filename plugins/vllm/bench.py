"""Prompt tokens, encoder time and requests a second of vLLM, plain and merged in turn.

    python plugins/vllm/bench.py --keep 0.33 --rounds 3

Weights are random, of Qwen2.5-VL's shape with fewer and narrower layers. Each engine runs in a process of its
own, the two in alternating order. Both get the same drawn pictures, none of them twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "tests"))


def write(folder: Path) -> None:
    """A checkpoint of Qwen2.5-VL with random weights: published patches and windows, 16 narrower blocks."""
    import checkpoints

    text = checkpoints.tokenizer()
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **checkpoints.TEXT,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 16,
            "hidden_size": 640,
            "intermediate_size": 1728,
            "num_heads": 8,
            "out_hidden_size": 1024,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [3, 7, 11, 15],
        },
        **checkpoints.special_ids(text),
    )
    torch.manual_seed(0)
    transformers.Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    limits = {"shortest_edge": 56 * 56, "longest_edge": 1024 * 1024}
    checkpoints.processor("qwen2_5_vl", text, patch=14, limits=limits).save_pretrained(folder)


def measure(folder: str, keep: float, requests: int, size: int, seed: int) -> dict[str, float]:
    """One engine: encoder time of a picture by itself, then all requests at once."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder,
        enforce_eager=True,
        max_model_len=4096,
        limit_mm_per_prompt={"image": 1, "video": 0},
        additional_config={"illava": {"keep": keep}},
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
    )
    generator = np.random.default_rng(seed)

    def prompts(count: int) -> list[dict[str, Any]]:
        noise = generator.integers(0, 255, (count, size // 16, size // 16, 3), dtype=np.uint8)
        text = "<|vision_start|><|image_pad|><|vision_end|>Describe this picture."
        return [
            {"prompt": text, "multi_modal_data": {"image": Image.fromarray(one).resize((size, size))}}
            for one in noise
        ]

    (model,) = llm.apply_model(lambda model: model)
    times: list[float] = []
    encoded = model.embed_multimodal

    def timed(**given: Any) -> Any:
        started = time.perf_counter()
        out = encoded(**given)
        times.append(time.perf_counter() - started)
        return out

    model.embed_multimodal = timed
    sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    for one in prompts(3):
        llm.generate(one, sampling, use_tqdm=False)
    alone, given = times[1:], prompts(requests)
    started = time.perf_counter()
    outputs = llm.generate(given, sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    return {
        "prompt_tokens": len(outputs[0].prompt_token_ids),
        "encoder_seconds": min(alone),
        "requests_per_second": requests / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", type=float, default=0.33)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--size", type=int, default=672, help="of the pictures, in pixels")
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "KEEP", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, keep, seed = options.one
        found = measure(folder, float(keep), options.requests, options.size, int(seed))
        print(json.dumps(found))
        return
    runs: dict[float, list[dict[str, float]]] = {1.0: [], options.keep: []}
    # The functions that measure act on the model itself, which therefore has to be in the same process.
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with TemporaryDirectory() as folder:
        write(Path(folder))
        for number in range(options.rounds):
            for keep in list(runs)[:: 1 if number % 2 == 0 else -1]:
                command = [sys.executable, __file__, "--one", folder, str(keep), str(number)]
                command += ["--requests", str(options.requests), "--size", str(options.size)]
                out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                runs[keep].append(json.loads(out.stdout.splitlines()[-1]))
    plain, merged = ({name: median(run[name] for run in each) for name in each[0]} for each in runs.values())
    print(f"{'':24}{'plain':>10}{f'keep={options.keep:g}':>14}{'ratio':>8}")
    for name, value in plain.items():
        print(f"{name:24}{value:>10.3f}{merged[name]:>14.3f}{merged[name] / value:>8.2f}")


if __name__ == "__main__":
    main()
