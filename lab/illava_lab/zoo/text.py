"""The zoo's tokenizer, chat template and processor: Qwen2-VL's own classes around a small vocabulary."""

from itertools import pairwise

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from ..drawing.canvas import COLOURS, indefinite
from ..drawing.glyphs import SHAPES
from ..tasks import (
    Attribute,
    Counting,
    EasyVQA,
    Existence,
    MultiPicture,
    Spatial,
    Video,
    attribute,
    existence,
    multi_picture,
    spatial,
    video,
)
from ..tasks.counting import COUNTING, PLURALS
from ..tasks.reading import Digits, Words

TASKS = (Attribute, Counting, EasyVQA, Existence, MultiPicture, Spatial, Video)
# The words of easy-VQA's questions, so that its package is not needed here.
EASY_VQA = [
    *(f"{start} a {thing} {end}?" for start in ("is there", "is there not", "does the image contain")
      for thing in ("circle", "rectangle", "triangle", "blue shape", "brown shape", "gray shape",
                    "teal shape", "black shape", "green shape", "red shape", "yellow shape")
      for end in ("in the image", "present")),
    "does the image not contain a circle?",
    "is no rectangle present?",
    "what shape does the image contain?",
    "what is the color of the triangle?",
]  # fmt: skip

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

# Qwen2-VL's template without its default system prompt, whose tokens would be wasted on this small model.
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
    """Return every question of the tasks, in every phrasing, and the names of the speakers."""
    kinds = [*SHAPES, *COLOURS, *PLURALS.values()]
    things = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    abouts = [indefinite(about) for about in (*SHAPES, *things)]
    events = [verb for verbs in video.EVENTS.values() for verb in verbs]
    texts = [
        *(phrase.format(shape) for phrase in attribute.PHRASES["colour"] for shape in SHAPES),
        *(phrase.format(colour) for phrase in attribute.PHRASES["shape"] for colour in COLOURS),
        *(phrase.format(about) for phrase in COUNTING for about in ("shapes", *PLURALS.values())),
        *(phrase.format(f"{colour} shapes") for phrase in COUNTING for colour in COLOURS),
        *(phrase for task in (Digits, Words) for phrase in task.phrases * 10),
        *(phrase.format(a, b) for phrase in spatial.PHRASES for a, b in pairwise([*kinds, *things])),
        *(phrase.format(about) for phrase in existence.PHRASES for about in abouts),
        *(phrase.format(f"anything {colour}") for phrase in existence.PHRASES for colour in COLOURS),
        *(
            phrase.format(about, listed)
            for phrase in multi_picture.PHRASES
            for about in ("more shapes", "the most shapes", *abouts)
            for listed in ("1 or 2", "1, 2 or 3", "1, 2, 3 or 4")
        ),
        *(phrase.format(thing) for phrase in video.PHRASES for thing in things),
        *(
            f"Which {kind} {verb} {n}?"
            for kind in ("shape", "colour")
            for verb in events
            for n in ("first", "last")
        ),
        *EASY_VQA * 20,
    ]
    return [*texts, *["user", "assistant", "system"] * 20]


def answer_texts() -> list[str]:
    """Return every answer that is an English word: numbers and words in images are spelled instead."""
    words = {word for task in TASKS for word in task.choices if not word.isdigit()}
    return sorted(words)


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE on the questions and answers: any text can be encoded.

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
        vocab_size=600,
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
    """Return the processor; images of 192 x 192 pixels are not resized and give 144 visual tokens."""
    sizes = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": TEMPORAL}
    common = {**sizes, "image_mean": list(MEAN), "image_std": list(STD)}
    limits = {"shortest_edge": 64 * 64, "longest_edge": 384 * 384}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits, **common),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=limits, cap_pixels_per_frame=True, **common),
        chat_template=CHAT_TEMPLATE,
    )
