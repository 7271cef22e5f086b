"""The scripts about growth and bigger models: what they write, what they do once only, their figures."""

from __future__ import annotations

import json

import pytest
from illava_lab.benchmarks import bigger, growth

from illava.bench import published

LAYERS, HIDDEN, KV_HEADS, HEAD_DIM = 2, 64, 2, 16
SMALL, LARGE = "1 x 56 px", "1 x 112 px"


@pytest.fixture
def tiny(monkeypatch):
    """Another model by the same name, and points that take no time; the calls of ``measure`` are counted."""
    vision = {**published.qwen2_vision(HIDDEN), "depth": LAYERS, "embed_dim": HIDDEN, "num_heads": 4}
    text = published.sizes(LAYERS, HIDDEN, 128, HIDDEN // HEAD_DIM, KV_HEADS)
    config = published.flat("qwen2_vl", vision, text, 151936, **published.TIED)
    config["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
    monkeypatch.setitem(published.SHAPES, growth.SHAPE, published.Shape("none", config))
    points = {
        "side": {56: growth.Point(56), 112: growth.Point(112)},
        # The first one is a point of both series.
        "pictures": {1: growth.Point(56), 2: growth.Point(56, pictures=2)},
        "frames": {4: growth.Point(56, frames=4)},
    }
    monkeypatch.setattr(growth, "SERIES", points)
    calls, measure = [], growth.measure

    def counted(*arguments):
        calls.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(growth, "measure", counted)
    return calls


@pytest.fixture
def quick(monkeypatch):
    """Without drawing, and collecting garbage before memory is looked at: they take longer than all else."""
    monkeypatch.setattr(growth, "draw", lambda result, path: None)
    monkeypatch.setattr(growth, "peak_bytes", lambda call, device: call() and 1)


def start(folder, *more):
    """Run the script; what it wrote."""
    growth.main(["--layers", str(LAYERS), "--rounds", "1", "--output", str(folder), *more])
    return json.loads((folder / "growth.json").read_text())


def per_point(rounds):
    """Calls: plain and two budgets, each round and once for memory."""
    return 3 * (rounds + 1)


def check_against_predictions(points):
    """Tokens and caches are those predicted, and those of formulas by hand."""
    for point in points.values():
        units = (point["side"] // 28) ** 2 * (point["frames"] // 2 or point["pictures"])
        assert point["visual_tokens"] == units == point["patches"] // 4
        rows, predicted = point["measured"]["rows"], point["predicted"]["slice"]
        assert {name: row["kv_bytes"] for name, row in rows.items()} == {
            name: one["kv_bytes"] for name, one in predicted.items()
        }
        per_token = 2 * LAYERS * KV_HEADS * HEAD_DIM * 4
        assert rows["plain"]["kv_bytes"] == per_token * (units + growth.TEXT_TOKENS)
        for name in growth.METHODS:
            assert predicted[name]["flops_ratio"] > 1
            assert len(rows[name]["seconds"]["ttft"]) == len(rows[name]["processor_seconds"]) == 1


@pytest.mark.slow
def test_every_point_is_measured_once_and_never_again(tiny, tmp_path, capsys):
    first = start(tmp_path)
    points = first["points"]
    assert list(points) == [SMALL, LARGE, "2 x 56 px", "4 frames of 56 px"]
    warm_up = 1
    assert len(tiny) == warm_up + 4 * per_point(1)
    check_against_predictions(points)
    assert "4 of 4: 1 x 112 px, 64 patches: plain" in capsys.readouterr().out
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")

    tiny.clear()
    assert start(tmp_path) == first
    assert not tiny

    del points[LARGE]
    (tmp_path / "growth.json").write_text(json.dumps(first))
    again = start(tmp_path)["points"]
    assert len(tiny) == warm_up + per_point(1)
    assert again[SMALL] == points[SMALL]
    assert again[LARGE]["measured"]


def test_points_above_the_limit_are_predicted_only_and_other_settings_are_refused(
    tiny, quick, tmp_path, capsys
):
    points = start(tmp_path, "--limit-tokens", "32")["points"]
    assert points[LARGE]["measured"] is None
    assert points[LARGE]["note"] == "not measured: more than 32 patches"
    assert points[LARGE]["predicted"]["whole"]["plain"]["flops"] > 0
    assert all(point["measured"] and "note" not in point for name, point in points.items() if name != LARGE)
    before = (tmp_path / "growth.json").read_bytes()
    with pytest.raises(SystemExit):
        start(tmp_path, "--rounds", "2")
    assert "measured with other settings" in capsys.readouterr().err
    assert (tmp_path / "growth.json").read_bytes() == before


def test_what_was_measured_stays_when_a_later_point_fails(tiny, quick, tmp_path, monkeypatch):
    measured = growth.measured

    def failing(model, point, rounds):
        if point == growth.Point(112):
            raise KeyboardInterrupt
        return measured(model, point, rounds)

    monkeypatch.setattr(growth, "measured", failing)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    written = json.loads((tmp_path / "growth.json").read_text())["points"]
    assert [name for name, point in written.items() if not point["measured"]] == [LARGE]


@pytest.fixture(scope="module")
def compared():
    return bigger.run()


def rows(compared, pair, side, schedule):
    size = next(one for one in compared["pairs"][pair]["sizes"] if one["side"] == side)
    return [row for row in size["rows"] if row["schedule"] == schedule]


def llm(name):
    """(layers, hidden, kv heads, weights of a layer's matrices, vocabulary), heads of 128 features."""
    text = published.SHAPES[name].config["text_config"]
    hidden, narrow = text["hidden_size"], text["num_key_value_heads"] * 128
    matrices = 2 * hidden * hidden + 2 * hidden * narrow + 3 * hidden * text["intermediate_size"]
    return text["num_hidden_layers"], hidden, text["num_key_value_heads"], matrices, text["vocab_size"]


@pytest.mark.parametrize(("side", "tiles"), [(448, 1), (896, 5), (1344, 10)])
def test_plain_26b_by_hand(compared, side, tiles):
    (plain,) = rows(compared, 0, side, "plain")
    layers, hidden, kv_heads, matrices, vocabulary = llm("internvl2.5-26b")
    tokens = 256 * tiles + bigger.TEXT_TOKENS
    assert plain["final_tokens"] == 256 * tiles
    assert plain["values"]["kv_bytes"] == tokens * 2 * layers * kv_heads * 128 * 2
    by_hand = layers * (2 * tokens * matrices + 4 * tokens**2 * hidden) + 2 * hidden * vocabulary
    assert plain["values"]["prefill_flops"] == by_hand
    # One more token attends to all before it and to itself.
    decode = layers * (2 * matrices + 4 * (tokens + 1) * hidden) + 2 * hidden * vocabulary
    assert plain["values"]["decode_flops"] == decode
    # An encoder of 45 blocks, whose sequences have a class token, and what maps four patches to a token.
    block = 2 * 1025 * (4 * 3200**2 + 2 * 3200 * 12800) + 4 * 1025**2 * 3200
    encoder = tiles * 45 * block
    assert plain["values"]["encoder_flops"] == pytest.approx(encoder, rel=0.01)


def test_weights_by_hand(compared):
    layers, hidden, _, matrices, vocabulary = llm("internvl2.5-26b")
    numbers = layers * matrices + 2 * vocabulary * hidden + 45 * (4 * 3200**2 + 2 * 3200 * 12800)
    numbers += 4 * 3200 * hidden + hidden**2
    (plain,) = rows(compared, 0, 448, "plain")
    assert plain["values"]["weight_bytes"] == pytest.approx(2 * numbers, rel=0.001)
    assert plain["values"]["weight_bytes"] == pytest.approx(51e9, rel=0.01)
    assert compared["pairs"][0]["sizes"][0]["smaller_plain"]["weight_bytes"] == pytest.approx(
        16.2e9, rel=0.01
    )


def test_all_of_it_early_leaves_a_budget_in_every_layer(compared):
    layers, _, kv_heads, _, _ = llm("internvl2.5-26b")
    row = next(row for row in rows(compared, 0, 448, bigger.EARLY) if row["keep"] == 1 / 9)
    assert row["final_tokens"] == 28
    assert row["values"]["kv_bytes"] == (28 + bigger.TEXT_TOKENS) * 2 * layers * kv_heads * 128 * 2


def test_the_limits_part_what_is_cheaper_from_what_is_not(compared):
    for pair in compared["pairs"]:
        for size in pair["sizes"]:
            for schedule, limits in size["cheaper_from"].items():
                for row in size["rows"]:
                    if row["schedule"] != schedule:
                        continue
                    for name, limit in limits.items():
                        below = limit is not None and row["keep"] <= limit
                        assert (row["ratios"][name] < 1) == below
            assert all(limits["weight_bytes"] is None for limits in size["cheaper_from"].values())
            assert all(limits["decode_flops"] is None for limits in size["cheaper_from"].values())


def test_what_is_written_is_what_was_found(compared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bigger, "run", lambda: compared)
    bigger.main(["--output", str(tmp_path)])
    assert json.loads((tmp_path / "bigger.json").read_text()) == compared
    assert "never" in capsys.readouterr().out
