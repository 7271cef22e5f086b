"""Pictures that come in a later turn of a chat, on top of a cache that is filled.

The whole chat in one pass is what the turns are compared with. That pass sees every picture at once; so
where the LLM merges, only the last turn shows one, since an earlier turn's last token is not the chat's.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.test_battery import method_of
from tests.flash import Kernels, kernels, use
from tests.test_flex import uncompiled
from tests.tiny import ALL, Picture, pictures, prompt, tiny_model

__all__ = ["kernels", "uncompiled"]

# These want to be told where later pictures stand: transformers works positions out for whole chats alone.
POSITIONS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe", "glm46v")
POSITIONS += ("cosmos3_omni", "cosmos3_edge", "cohere_compass", "glm_ocr", "paddleocr_vl")
POSITIONS += ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
REFUSED = ("gemma3", "paligemma", "paligemma-2", "qwen3_5", "qwen3_5_moe")
NAMES = tuple(name for name in ALL if name not in REFUSED)
ENCODER = illava.Illava(encoder_layers=(1, 3), encoder_keep=0.7, llm_layers=())
TEXTS = ([5, 6, 7, 8], [9, 10], [11, 12, 13])
STEPS = 4


def turns_of(model: nn.Module, shown: list[list[list[Picture]]]) -> list[dict[str, Tensor]]:
    """Inputs of each turn; ``shown[turn][row]`` are the pictures of a row."""
    out: list[dict[str, Tensor]] = []
    for turn, rows in enumerate(shown):
        made = prompt(model, [(TEXTS[(turn + i) % 3], parts) for i, parts in enumerate(rows)])
        before = out[-1]["attention_mask"] if out else made["attention_mask"][:, :0]
        made["attention_mask"] = torch.cat([before, made["attention_mask"]], 1)
        out.append(made)
    return out


def at_once(turns: list[dict[str, Tensor]], parts: list[Picture], model: nn.Module) -> dict[str, Tensor]:
    """The same chat as one prompt; the pictures are those of each row in order."""
    whole = prompt(model, [([1], parts)]) if parts else {}
    whole["input_ids"] = torch.cat([turn["input_ids"] for turn in turns], 1)
    whole["attention_mask"] = turns[-1]["attention_mask"]
    if "mm_token_type_ids" in turns[0]:
        whole["mm_token_type_ids"] = torch.cat([turn["mm_token_type_ids"] for turn in turns], 1)
    return whole


def positions_of(model: nn.Module, whole: dict[str, Tensor]) -> Tensor | None:
    """(axes, B, L + STEPS) where the plain model puts the tokens of a chat and those that follow."""
    if model.config.model_type not in POSITIONS:
        return None
    seen: list[Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**whole)
    hook.remove()
    positions = seen[0][-3:]
    after = positions.amax((0, 2))[None, :, None] + torch.arange(1, STEPS + 1)
    return torch.cat([positions, after.expand(len(positions), -1, -1)], 2)


def chat(model: nn.Module, turns: list[dict[str, Tensor]], positions: Tensor | None = None) -> list[Tensor]:
    """Logits of the last token after each turn, and of four more tokens."""
    cache, out, begun = None, [], 0

    def placed(ids: Tensor) -> dict[str, Tensor]:
        nonlocal begun
        begun += ids.shape[1]
        return {} if positions is None else {"position_ids": positions[..., begun - ids.shape[1] : begun]}

    with torch.no_grad():
        for turn in turns:
            result = model(**turn, **placed(turn["input_ids"]), past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            out.append(result.logits[:, -1])
        mask = turns[-1]["attention_mask"]
        for step in range(STEPS):
            mask = nn.functional.pad(mask, (0, 1), value=1)
            ids = torch.full((len(mask), 1), 30 + step)
            turn = {"input_ids": ids, "attention_mask": mask}
            result = model(**turn, **placed(ids), past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            out.append(result.logits[:, -1])
    return out


def compare(model: nn.Module, method: illava.Illava, shown: list[list[list[Picture]]], other=None) -> None:
    turns = turns_of(model, shown)
    rows = range(len(shown[0]))
    parts = [part for row in rows for turn in shown for part in turn[row]]
    whole = at_once(turns, parts, model)
    expected_of = other or model
    positions = positions_of(model, whole)
    plain = [chat(m, t, positions) for m, t in ((model, turns), (expected_of, [whole]))]
    torch.testing.assert_close(plain[0][-5:], plain[1], atol=1e-5, rtol=0, msg="of the plain model")
    with illava.accelerate(model, method):
        found = chat(model, turns, positions)
    with illava.accelerate(expected_of, method):
        expected = chat(expected_of, [whole], positions)
    torch.testing.assert_close(found[-5:], expected, atol=1e-5, rtol=0)
    assert (found[-1] - plain[0][-1]).abs().max() > 1e-3, "something must have gone"


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_after_text(name: str, rows: int) -> None:
    model = tiny_model(name)
    drawn = pictures(model, 3)
    compare(model, method_of(name), [[[]] * rows, [[drawn[0]], [], drawn[1:3]][:rows]])


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_pictures_in_every_turn(name: str, rows: int) -> None:
    model = tiny_model(name)
    drawn = pictures(model, 6)
    first, later = [drawn[:1], [], drawn[1:2]], [drawn[2:4], drawn[4:5], []]
    compare(model, ENCODER, [first[:rows], later[:rows]])


def test_three_turns_of_both_stages_hold_what_each_left() -> None:
    """Turn by turn as the turns before it left it: token by token gives the same."""
    model = tiny_model("llava_onevision")
    drawn = pictures(model, 3)
    turns = turns_of(model, [[[drawn[0]]], [[]], [drawn[1:]]])
    with illava.accelerate(model, method_of("llava_onevision")), torch.no_grad():
        cache = None
        for turn in turns[:1]:
            cache = model(**turn, past_key_values=cache, use_cache=True).past_key_values
        held = [layer.physical_length() for layer in cache.layers]
        assert held[4] < held[2] < held[0] < cache.get_seq_length()
        for turn in turns[1:]:
            before = [layer.physical_length() for layer in cache.layers]
            cache = model(**turn, past_key_values=cache, use_cache=True).past_key_values
            added = [layer.physical_length() - n for layer, n in zip(cache.layers, before, strict=True)]
            new = turn["input_ids"].shape[1]
            assert cache.get_seq_length() == turn["attention_mask"].shape[1]
            if turn is turns[1]:
                assert added == [new] * 5
            else:
                assert added[4] < added[2] < added[0] < new


@pytest.mark.parametrize("rows", [1, 3])
def test_with_flash_attention(rows: int, kernels: Kernels) -> None:
    plain, flash = tiny_model("llava"), use(tiny_model("llava"), "flash_attention_2")
    drawn = pictures(plain, 3)
    compare(flash, method_of("llava"), [[[]] * rows, [[drawn[0]], [], drawn[1:3]][:rows]], plain)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["llava", "llava-windows"])
def test_with_flex_attention(name: str, rows: int, uncompiled: None) -> None:
    plain, flex = tiny_model(name), use(tiny_model(name), "flex_attention")
    drawn = pictures(plain, 3)
    compare(flex, method_of(name), [[[]] * rows, [[drawn[0]], [], drawn[1:3]][:rows]], plain)


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_what_cannot_be_exact_is_refused(name: str) -> None:
    """Their pictures see themselves whole."""
    model = tiny_model(name)
    turns = turns_of(model, [[[]], [pictures(model, 1)]])
    with (
        illava.accelerate(model, method_of(name)),
        pytest.raises(illava.UnsupportedError, match="image attention is bidirectional"),
    ):
        chat(model, turns)


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_recurrent_layers_have_seen_what_they_have_seen(name: str) -> None:
    model = tiny_model(name)
    first, later = turns_of(model, [[[]], [pictures(model, 1)]])
    positions = torch.arange(500)[None, None].expand(3, 1, -1)
    with illava.accelerate(model, method_of(name)), torch.no_grad():
        cache = model(**first, use_cache=True).past_key_values
        length, new = first["input_ids"].shape[1], later["input_ids"].shape[1]
        with pytest.raises(illava.UnsupportedError, match="recurrent"):
            placed = positions[..., length : length + new]
            model(**later, past_key_values=cache, use_cache=True, position_ids=placed)
