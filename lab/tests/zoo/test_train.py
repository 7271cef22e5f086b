"""Training stops and goes on without a trace; the optimizer and the starting weights do what they say."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from illava_lab.drawing.canvas import COLOURS
from illava_lab.tasks.counting import PLURALS
from illava_lab.tasks.video import DIRECTIONS
from illava_lab.zoo.curve import draw
from illava_lab.zoo.losses import LABELS, pointing_loss, tally_loss
from illava_lab.zoo.model import OFFSETS, build_config, build_model
from illava_lab.zoo.optim import Muon, orthogonalize
from illava_lab.zoo.questions import CLASSES, IGNORE, REFERENCE
from illava_lab.zoo.recipe import ALL, SEEING, Recipe, Stage, learning_rate, recipe, trained
from illava_lab.zoo.text import build_processor
from illava_lab.zoo.train import Trainer, main

STAGES = (
    Stage("dense", 48, 2, 2, SEEING, warmup=1),
    Stage("ask", 64, 2, 3, replace(ALL, forms=(0.1, 0.1, 0.2, 0.2, 0.2, 0.2), most=2), warmup=1),
)


def trainer(folder, stages=STAGES, **changes) -> Trainer:
    made = Trainer(Recipe(size="micro", stages=stages, **changes), folder)
    made.resume()
    return made


def steps(log) -> list[tuple[int, int]]:
    lines = map(json.loads, log.read_text().splitlines())
    return [(line["stage"], line["step"]) for line in lines if "code" not in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = trainer(tmp_path_factory.mktemp("whole"))
    made.run(log_every=1, check_every=10, save_every=1)
    return made


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_bits(whole, tmp_path, cut):
    class Killed(Exception):
        pass

    first, taken = trainer(tmp_path), 0
    step = first.train_step

    def killed_after_a_while():
        nonlocal taken
        if taken == cut + 1:  # one step past the last checkpoint, and already logged
            raise Killed
        taken += 1
        return step()

    first.train_step = killed_after_a_while
    save = first.save
    first.save = lambda: save() if taken <= cut else None
    with pytest.raises(Killed):
        first.run(log_every=1, check_every=10, save_every=1)
    second = trainer(tmp_path)
    second.run(log_every=1, check_every=10, save_every=1)
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    expected = [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
    assert steps(tmp_path / "log.jsonl") == steps(whole.folder / "log.jsonl") == expected


def test_the_curve_is_drawn_from_the_log(whole, tmp_path):
    draw(whole.folder / "log.jsonl", tmp_path / "curve.png", "zoo/micro")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_training_changes_every_weight_that_is_used(whole):
    start = dict(build_model("micro", whole.processor, 0).named_parameters())
    still = [k for k, w in whole.model.named_parameters() if torch.equal(w, start[k])]
    assert still == []


def test_exporting_nothing_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["S", "--export-only", "--runs", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert "no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stage_at_a_constant_rate_may_grow_and_others_not():
    steady = Stage("dense", 48, 2, 2, SEEING, last=1.0)
    begun, longer = (asdict(Recipe(stages=(replace(steady, steps=n), STAGES[1]))) for n in (2, 9))
    assert trained(begun, 0, 1) == trained(longer, 0, 1)
    falling = replace(steady, last=0.5)
    one, other = (asdict(Recipe(stages=(replace(falling, steps=n),))) for n in (2, 9))
    assert trained(one, 0, 1) != trained(other, 0, 1)


def test_a_checkpoint_beyond_its_stage_is_refused(tmp_path):
    steady = replace(STAGES[0], last=1.0)
    made = trainer(tmp_path, (steady, STAGES[1]))
    made.step = 2
    made.save()
    assert trainer(tmp_path, (replace(steady, steps=3), STAGES[1])).step == 2
    with pytest.raises(ValueError, match="further than its stage"):
        trainer(tmp_path, (replace(steady, steps=1), STAGES[1]))


def test_the_models_that_ship_differ_in_how_long_they_learn_alone():
    small, large = (recipe(size).stages for size in ("S", "L"))
    for one, other in zip(small, large, strict=True):
        if one != other:
            assert one.steps < other.steps
            assert replace(one, steps=other.steps) == other
    with pytest.raises(KeyError):
        recipe("micro")


def test_a_checkpoint_of_another_recipe_is_refused(whole):
    with pytest.raises(ValueError, match="another recipe"):
        trainer(whole.folder, clip=2.0)


def test_pointing_loss_is_zero_where_it_should_look_and_a_logarithm_elsewhere():
    seen = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    right = torch.tensor([[9.0, 9.0, -90.0, -90.0], [1.0, 2.0, 3.0, 4.0]])
    assert pointing_loss(right, seen) == pytest.approx(0, abs=1e-6)
    assert pointing_loss(torch.zeros(2, 4), seen) == pytest.approx(math.log(2))
    assert pointing_loss(right, torch.zeros(2, 4)) == 0


def test_tally_loss_is_zero_where_shares_tell_the_number():
    """Two things of three visual tokens; nothing at all; a mention without a count."""
    seen = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    mentions = torch.full((3, 2 + len(REFERENCE)), IGNORE)
    mentions[:2, 2] = torch.tensor([2, 0])
    right = torch.tensor([[1 / 6, 1 / 6, 1e-9, 4 / 6], [1e-9, 1e-9, 1e-9, 1.0], [0.25] * 4]).log()
    assert tally_loss(right, mentions, seen) == pytest.approx(0, abs=1e-6)
    even = torch.full((3, 4), 0.25).log()
    first = sum(p * math.log(4 * p) for p in (1 / 6, 1 / 6, 4 / 6))
    assert tally_loss(even, mentions, seen) == pytest.approx((first + math.log(4)) / 2)
    assert tally_loss(even, mentions[2:], seen[2:]) == 0


def test_rates_rise_and_fall():
    stage = Stage("x", 64, 1, 100, SEEING, rate=1.0, last=0.1, warmup=10)
    assert learning_rate(stage, 0) == pytest.approx(0.1, abs=0.01)
    assert learning_rate(stage, 9) == pytest.approx(1.0, abs=0.05)
    assert learning_rate(stage, 99) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96)])
def test_orthogonalize_evens_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_treats_fused_blocks_as_matrices_of_their_own():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(24, 8, generator=generator)
    fused = torch.nn.Parameter(torch.zeros(24, 8))
    parts = [torch.nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    fused.grad = gradient.clone()
    for part, grad in zip(parts, gradient.chunk(3), strict=True):
        part.grad = grad.clone()
    Muon([{"params": [fused], "blocks": 3}]).step()
    Muon([{"params": parts}]).step()
    assert torch.allclose(fused, torch.cat(list(parts)), atol=1e-6)
    assert fused.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("size", ["S", "L"])
def test_first_blocks_start_by_looking_where_they_should(size):
    visual = build_model(size, build_processor(), 0).model.visual
    row, column = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    cos, sin = visual.rotary_pos_emb(torch.zeros(1), torch.stack([row.ravel(), column.ravel()], 1))
    here = 5 * 12 + 6
    for block, offsets in zip(visual.blocks, OFFSETS, strict=False):
        query, key, _ = block.attn.qkv.bias.view(3, 4, -1)
        for head, (down, right) in enumerate(offsets):
            half = query.shape[-1] // 2
            q, k = (z * cos + torch.cat([-z[half:], z[:half]]) * sin for z in (query[head], key[head]))
            assert int((k @ q[here]).argmax()) == here + 12 * down + right


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="S, L, micro"):
        build_config("XXL", build_processor())


@torch.no_grad()
def test_words_start_in_the_direction_of_what_they_name(tmp_path):
    made = trainer(tmp_path)
    made.heads.dense.weight.normal_(generator=torch.Generator().manual_seed(0))
    made.align_words()
    rows = dict(zip(LABELS, made.heads.dense.weight.split(list(LABELS.values())), strict=True))
    embedding = made.model.get_input_embeddings().weight
    found = set()
    kinds = (rows["class"] + rows["centre"])[1:]
    for names, looks in (
        (COLOURS, rows["colour"]),
        (DIRECTIONS, rows["motion"][1:]),
        (CLASSES[1:], kinds),
        ([PLURALS.get(name, "") for name in CLASSES[1:]], kinds),
    ):
        for number, name in enumerate(names):
            for text in (name, f" {name}") if name else ():
                word, *more = made.processor.tokenizer(text)["input_ids"]
                if more:  # " 7" and the plurals at the start of a text are several tokens
                    continue
                found.add(name)
                likeness = torch.nn.functional.cosine_similarity(looks - looks.mean(0), embedding[word][None])
                assert int(likeness.argmax()) == number
    assert found >= {*COLOURS, *DIRECTIONS, *CLASSES[1:], *PLURALS.values()}


@torch.no_grad()
def test_attention_starts_by_looking_for_what_is_alike():
    model = build_model("S", build_processor(), 0)
    hidden = torch.nn.functional.normalize(
        torch.randn(40, 96, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        query = attention.q_proj(hidden).view(40, 4, -1).transpose(0, 1)
        key = attention.k_proj(hidden).view(40, 2, -1).transpose(0, 1).repeat_interleave(2, 0)
        likest = (query @ key.transpose(1, 2)).argmax(-1)
        assert (likest == torch.arange(40)).float().mean() > 0.9
        copied = attention.o_proj(attention.v_proj(hidden).view(40, 2, -1).repeat_interleave(2, 1).flatten(1))
        assert torch.cosine_similarity(copied, hidden).mean() > 0.3
