"""The zoo's tokenizer, chat template and processor: Qwen2-VL's own classes around a small vocabulary."""

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from .questions import PHRASES, PLURALS
from .scenes import COLOURS

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH, MERGE, TEMPORAL = 8, 2, 2
MEAN = STD = (0.5, 0.5, 0.5)

# Qwen2-VL's layout without its default system prompt, which would only cost this small model tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def question_texts() -> list[str]:
    """Return every question the zoo asks about single pictures, and the names of the speakers."""
    things = {
        "colour": [*PLURALS],
        "shape": [*COLOURS],
        "count": ["shapes"],
        "count_one": [*PLURALS.values()],
    }
    texts = [p.format(thing) for kind, ps in PHRASES.items() for p in ps for thing in things.get(kind, [""])]
    return [*texts, *["user", "assistant", "system"] * 20]


def answer_texts() -> list[str]:
    """Return every answer that is an English word: what is read and what is counted is spelled instead."""
    return [*COLOURS, *PLURALS]


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE on questions and answers: any text can be encoded.

    Digits are single tokens, and so are the answers in words: in pieces, an answer that begins like
    another ("cross", "circle") is decided at a piece they share, and mixtures of the two are spelled.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=505,
        min_frequency=3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*question_texts(), *answer_texts() * 20], trainer)
    tokenizer = Qwen2Tokenizer(
        vocab=bpe.get_vocab(),
        merges=[tuple(pair) for pair in _merges(bpe)],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        padding_side="left",
        model_max_length=4096,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return tokenizer


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    import json

    pairs = json.loads(bpe.to_str())["model"]["merges"]
    return [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in pairs]


def build_processor() -> Qwen2VLProcessor:
    """Return the processor: pictures of 192 x 192 pixels pass unresized and give 144 visual tokens."""
    sizes = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": TEMPORAL}
    common = {**sizes, "image_mean": list(MEAN), "image_std": list(STD)}
    limits = {"shortest_edge": 64 * 64, "longest_edge": 384 * 384}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits, **common),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=limits, cap_pixels_per_frame=True, **common),
        chat_template=CHAT_TEMPLATE,
    )
