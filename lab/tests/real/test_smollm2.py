"""SmolLM2 out of GGUF, against transformers' own reading of such files, and its tokenizer."""

import pytest
import torch
from illava_lab.real import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

from .tiny_parts import SPECIAL, write_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    write_gguf(folder / "tiny.gguf")
    smollm2.convert(folder / "tiny.gguf", folder / "out")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder / "out")


def test_the_weights_are_those_that_transformers_reads(folder):
    ours, info = AutoModelForCausalLM.from_pretrained(
        folder / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", dtype=torch.float32)
    expected = theirs.state_dict()
    assert set(ours.state_dict()) == set(expected)
    for name, weight in ours.state_dict().items():
        # float16 has 11 significant bits.
        torch.testing.assert_close(weight, expected[name], rtol=2**-11, atol=1e-7, msg=name)
    ids = torch.arange(3, 67)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=0.01)
    for name in ("rope_parameters", "rms_norm_eps", "num_key_value_heads", "tie_word_embeddings"):
        assert getattr(ours.config, name) == pytest.approx(getattr(theirs.config, name))
    assert "quantization_config" not in ours.config.to_dict()


@pytest.mark.parametrize(
    "text", ["cat", "a cat 112 cats,  12\n\n3.14", "Grüße, 東京! ½ x²", " ", "<|im_start|>user\nhi<|im_end|>\n"]
)
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_every_digit_is_a_token(tokenizer):
    """Despite merges of digits with digits and spaces, and the spaces before a digit are joined."""
    assert tokenizer.tokenize("cat  112 1") == ["cat", "ĠĠ", "1", "1", "2", "Ġ", "1"]
    assert tokenizer.tokenize(" cat") == ["Ġcat"]


def test_special_tokens_are_single_and_nothing_is_added(tokenizer):
    for number, token in enumerate(SPECIAL):
        assert tokenizer(token).input_ids == [number]
    assert tokenizer.convert_ids_to_tokens(tokenizer("ca").input_ids) == ["ca"]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_chats_have_no_system_prompt(tokenizer):
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>assistant\n"
    )


def test_another_architecture_is_refused(tmp_path):
    write_gguf(tmp_path / "other.gguf", architecture="gemma")
    with pytest.raises(ValueError, match=r"its architecture and tokenizer are \('gemma', 'smollm'\)"):
        smollm2.convert(tmp_path / "other.gguf", tmp_path / "out")
