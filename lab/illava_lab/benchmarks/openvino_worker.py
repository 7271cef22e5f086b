"""The OpenVINO side of versus_openvino.py, and the picture and the prompt that both sides are given.

Runs in its own environment, without illava.

    openvino_worker.py export SOURCE TARGET      # a transformers folder to float32 OpenVINO IR
    openvino_worker.py serve FOLDER '{"size": 616, "threads": 1, "backend": "PA"}'

``serve`` answers one line of JSON on stdout for each line of JSON on stdin, after a first line that names
versions. A request holds ``pruning_ratio`` in percent, ``new_tokens`` and whether to give the ``tokens``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for a character, Qwen's special tokens at their ids, and fillers in between."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {number: name for name, number in SPECIAL.items()}
    words = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words |= {special.get(number, f"<{number}>"): number for number in range(len(words), 151936)}
    inner = Tokenizer(models.BPE(words, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def picture(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def prompt(pads: int) -> str:
    """44 tokens besides the pads, of which OpenVINO wants one and makes as many as the picture needs."""
    return f"Look here:<|vision_start|>{'<|image_pad|>' * pads}<|vision_end|> What does this picture show us?"


def export(source: str, target: str) -> None:
    """Vision, text embeddings, LLM and tokenizer, uncompressed: the exporter would shrink large models."""
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    main_export(
        source,
        target,
        task="image-text-to-text",
        ov_config=OVConfig(dtype="fp32"),
        convert_tokenizer=True,
        local_files_only=True,
    )


def serve(folder: str, options: dict[str, Any]) -> None:
    # What the libraries print on stdout must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import openvino as ov
    import openvino_genai as genai

    class Tokens(genai.StreamerBase):
        """Collects token ids, which a result does not hold."""

        def __init__(self) -> None:
            super().__init__()
            self.ids: list[int] = []

        def write(self, token: int | list[int]) -> genai.StreamingStatus:
            self.ids += [token] if isinstance(token, int) else list(token)
            return genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    keywords = {}
    if options["backend"] == "PA":
        # By default an answer takes the prompt's keys and values from the answer before it.
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        # The whole prompt at once, as without a scheduler of one's own.
        scheduler.max_num_batched_tokens = 2**31
        keywords["scheduler_config"] = scheduler
    pipeline = genai.VLMPipeline(
        folder,
        "CPU",
        ATTENTION_BACKEND=options["backend"],
        INFERENCE_PRECISION_HINT="f32",
        # Its default on a CPU is 8 bits; torch's cache holds what the model computes.
        KV_CACHE_PRECISION="f32",
        INFERENCE_NUM_THREADS=options["threads"],
        # torch's thread is not pinned either: the system may move both away from a busy core.
        ENABLE_CPU_PINNING=False,
        **keywords,
    )
    image = ov.Tensor(picture(options["size"]))

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        config = genai.GenerationConfig(
            max_new_tokens=request["new_tokens"],
            ignore_eos=True,
            do_sample=False,
            apply_chat_template=False,
        )
        config.pruning_ratio = request["pruning_ratio"]
        streamer = Tokens() if request["tokens"] else None
        streaming = {"streamer": streamer} if streamer else {}
        start, cpu = time.perf_counter(), time.process_time()
        result = pipeline.generate(prompt(pads=1), images=[image], generation_config=config, **streaming)
        total, cpu = time.perf_counter() - start, time.process_time() - cpu
        metrics = result.perf_metrics
        raw, vlm = metrics.raw_metrics, metrics.vlm_raw_metrics
        # Raw figures are microseconds.
        inference = [value / 1e6 for value in raw.token_infer_durations]
        timing = {
            "encoder": sum(vlm.prepare_embeddings_durations) / 1e6,
            "prefill": inference[0],
            "decode": sum(inference[1:]),
            "ttft": raw.m_times_to_first_token[0] / 1e6,
            "total": total,
            "new_tokens": metrics.get_num_generated_tokens(),
        }
        return {
            "timing": timing,
            "llm_tokens": metrics.get_num_input_tokens(),
            "preparation": sum(vlm.vision_encoding_durations) / 1e6,
            "cpu": cpu,
            "tokens": streamer.ids if streamer else None,
        }

    names = ("openvino", "openvino-genai", "openvino-tokenizers", "optimum-intel", "transformers", "torch")
    print(json.dumps({name: version(name) for name in names}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(sys.argv[2], sys.argv[3])
    else:
        serve(sys.argv[2], json.loads(sys.argv[3]))
