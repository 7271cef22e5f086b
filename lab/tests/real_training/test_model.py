"""The training model against transformers' own classes."""

from pathlib import Path

import pytest
import torch
from illava_lab.real.training import packing
from illava_lab.real.training.batches import pack
from illava_lab.real.training.encoder import squares
from illava_lab.real.training.llm import PROJECTIONS, AdaptedLLM
from illava_lab.real.training.model import Reached, TrainedModel, restore, save
from illava_lab.real.training.packing import Packer
from transformers import AutoTokenizer, CLIPImageProcessor, Dinov2Model, LlamaForCausalLM

from .conftest import coloured

OPENING = "<|im_start|>user\n"


def merged_llama(parts: dict[str, Path], llm: AdaptedLLM) -> LlamaForCausalLM:
    """transformers' model with the adapters added to its weights."""
    model = LlamaForCausalLM.from_pretrained(parts["llm"], dtype=torch.float32).eval()
    adapters = llm.named_adapters()
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for name in PROJECTIONS:
                prefix = f"language_model.layers.{number}.{name}"
                down, up = adapters[f"{prefix}.lora_A"], adapters[f"{prefix}.lora_B"]
                layer.get_submodule(name).weight += 32.0 / 16 * up @ down
    return model


def test_the_llm_is_llama_with_its_adapters_merged_in(parts: dict[str, Path], trained: TrainedModel) -> None:
    tokens = torch.randint(3, 200, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(17, 17).tril().bool().expand(2, 17, 17)
    hidden = trained.llm(trained.llm.embed(tokens), torch.arange(17).expand(2, 17), mask)
    expected = merged_llama(parts, trained.llm)(tokens).logits
    torch.testing.assert_close(trained.llm.logits(hidden), expected, rtol=1e-4, atol=1e-4)
    plain = LlamaForCausalLM.from_pretrained(parts["llm"], dtype=torch.float32)(tokens).logits
    assert (plain - expected).abs().max() > 1e-2


@pytest.mark.slow
def test_compiled_layers_compute_the_same(trained: TrainedModel) -> None:
    embeds = torch.randn(2, 9, trained.llm.config.hidden_size, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(9, 9).tril().bool().expand(2, 9, 9)
    found = []
    for _ in range(2):
        given = embeds.clone().requires_grad_()
        hidden = trained.llm(given, torch.arange(9).expand(2, 9), mask)
        found.append((hidden, *torch.autograd.grad(hidden.square().sum(), given)))
        trained.llm.compile_layers()
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [28, 42])
def test_a_packed_row_is_as_many_prompts_of_one_turn_each(
    parts: dict[str, Path], trained: TrainedModel, size: int
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    scenes = [coloured(0), coloured(2)._replace(turns=coloured(2).turns[:1])]
    batch = pack(Packer(tokenizer), scenes, size)
    hidden, targets = trained(*batch)
    found = trained.llm.logits(hidden)
    llama, tower = merged_llama(parts, trained.llm), Dinov2Model.from_pretrained(parts["encoder"])
    start = 0
    for scene in scenes:
        # As LLaVA reads them: the last block's output, before the last norm, without the class token.
        pixels = trained.encoder.normalised(squares([scene.picture], size))
        states = tower(pixels, output_hidden_states=True).hidden_states[-1]
        visual = trained.projector(states[:, 1:])
        for turn in scene.turns:
            question = tokenizer(turn.question + "<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
            answer = tokenizer(turn.answer + "<|im_end|>")["input_ids"]
            before = trained.llm.embed(torch.tensor([tokenizer(OPENING)["input_ids"]]))
            after = trained.llm.embed(torch.tensor([question + answer[:-1]]))
            logits = llama(inputs_embeds=torch.cat([before, visual, after], dim=1)).logits[0, -len(answer) :]
            here = slice(start, start + len(answer))
            assert targets[here].tolist() == answer
            torch.testing.assert_close(found[here], logits, rtol=1e-4, atol=1e-4)
            start = here.stop
    assert start == len(targets)


def test_pixels_are_those_of_an_image_processor(trained: TrainedModel) -> None:
    picture = coloured(1).picture.resize((50, 37))
    processor = CLIPImageProcessor(
        size={"height": 28, "width": 28},
        do_center_crop=False,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    expected = processor(picture, return_tensors="pt").pixel_values
    # torchvision rounds resized values otherwise than Pillow: one step of 1/255.
    found = trained.encoder.normalised(squares([picture], 28))
    torch.testing.assert_close(found, expected, rtol=0, atol=1.5 / 255 / 0.22)


def test_padding_and_other_turns_are_not_seen(parts: dict[str, Path]) -> None:
    packer = Packer(AutoTokenizer.from_pretrained(parts["llm"]))
    packed = packer([coloured(0), coloured(1)._replace(turns=coloured(1).turns[:1])], visual=4)
    mask = packed.mask()
    rows, length = packed.turns.shape
    for row in range(rows):
        for i in range(length):
            for j in range(length):
                own, other = int(packed.turns[row, i]), int(packed.turns[row, j])
                assert bool(mask[row, i, j]) == (j <= i and (other == 0 or own == other))
    assert (packed.turns[1] == -1).any()
    assert (packed.tokens == packing.IMAGE).sum(1).tolist() == [4, 4]


def test_weights_are_saved_in_bfloat16_and_restored(tmp_path: Path, trained: TrainedModel) -> None:
    file, weights = tmp_path / "trained.safetensors", trained.trained()
    reached = Reached("cpu", "several", 12, reads=True)
    save(file, weights, reached)
    held = {name: weight.detach().bfloat16().float() for name, weight in weights.items()}
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
    assert restore(file, weights) == reached
    assert all(torch.equal(weights[name], value) for name, value in held.items())
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    with pytest.raises(ValueError, match="does not hold the weights of this model"):
        restore(file, {"other": next(iter(weights.values()))})
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        restore(file, weights)
