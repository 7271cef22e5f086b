"""``python -m illava_lab.real train`` on tiny parts."""

from pathlib import Path

import pytest
from illava_lab.real.command import app
from illava_lab.real.training import encoder_run, naming
from illava_lab.real.training.recipe import RECIPES, Stage
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("coloured_stream")


@pytest.fixture
def arguments(
    parts: dict[str, Path], sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.setitem(RECIPES, "tiny", (Stage("only", (28,), 170, 2, {"any": 1.0}),))
    monkeypatch.setenv("ILLAVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoder_run, "NAMING_STEPS", 2)
    monkeypatch.setattr(encoder_run, "SCORED", {(28, 1): 20})
    monkeypatch.setattr(naming, "GRIDS", {(28, 1): 1.0})
    monkeypatch.setattr(naming, "TOKENS", 40)
    options = {"recipe": "tiny", "data": sets, "workers": 0, "device": "cpu", **parts}
    return [
        "train",
        "--fresh",
        *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
    ]


def test_it_trains_and_goes_on(arguments: list[str], tmp_path: Path) -> None:
    output = tmp_path / "cache" / "training" / "tiny"
    begun = CliRunner().invoke(app, [*arguments, "--budget", "0"])
    assert begun.exit_code == 0, begun.output
    assert "step 1 of 2 of the encoder; the next call goes on" in begun.output
    first = CliRunner().invoke(app, [*arguments, "--budget", "0"])
    assert first.exit_code == 0, first.output
    assert f"step 1; the weights are {output / 'trained.safetensors'}" in first.output
    refused = CliRunner().invoke(app, [*arguments, "--budget", "1"])
    assert refused.exit_code == 2
    assert "--fresh: " in refused.output
    assert "holds a run, which would go on; give another --output" in refused.output
    arguments.remove("--fresh")
    second = CliRunner().invoke(app, [*arguments, "--budget", "1"])
    assert second.exit_code == 0, second.output
    assert "closed form" not in second.output
    assert "step 2; the weights are" in second.output
    third = CliRunner().invoke(app, [*arguments, "--budget", "1"])
    assert third.exit_code == 0, third.output
    assert "step 2; the weights are" in third.output


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--recipe", "none"], "--recipe none: give one of"),
        (["--encoder", "/nowhere"], "no config.json there; run `python -m illava_lab.real get --only-parts`"),
        (["--start", "/nowhere/x.safetensors"], "--start /nowhere/x.safetensors: no such file"),
        (["--data", "/nowhere"], "no picture sets in /nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], extra: list[str], message: str) -> None:
    result = CliRunner().invoke(app, [*arguments, *extra])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("name", "message"),
    [("state.pt", "state.pt cannot be read; move it away"), ("start", "is not a complete safetensors file")],
)
def test_broken_files_are_said_in_one_line(
    arguments: list[str], tmp_path: Path, name: str, message: str
) -> None:
    arguments.remove("--fresh")
    output = tmp_path / "cache" / "training" / "tiny"
    output.mkdir(parents=True)
    if name == "state.pt":
        (output / name).write_bytes(b"PK\x03\x04 nothing")
    else:
        (tmp_path / name).write_bytes(b"nothing")
        arguments += ["--start", str(tmp_path / name)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_run_of_another_recipe_does_not_go_on(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    for _ in range(2):
        first = CliRunner().invoke(app, [*arguments, "--output", str(output), "--budget", "0"])
        assert first.exit_code == 0, first.output
    monkeypatch.setitem(RECIPES, "other", RECIPES["tiny"])
    arguments.remove("--fresh")
    again = [word if word != "tiny" else "other" for word in arguments]
    result = CliRunner().invoke(app, [*again, "--output", str(output)])
    assert result.exit_code == 2
    assert "holds a run of recipe tiny at step 1; give another folder" in result.output
