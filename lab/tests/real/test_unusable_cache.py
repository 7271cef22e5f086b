"""A cache folder that cannot be used takes zoo/R away, and nothing else."""

import pytest
from illava_lab import zoo
from illava_lab.real import cache
from illava_lab.real.command import app
from typer.testing import CliRunner


def test_an_unusable_cache_hides_zoo_r_alone(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for cache_folder, why in (
        (
            "~no-such-user/x",
            r"^the cache folder ~no-such-user/x: there is no such home folder; set ILLAVA_CACHE",
        ),
        (str(tmp_path / "file"), "it has not been made on this machine"),
    ):
        monkeypatch.setenv(cache.VARIABLE, cache_folder)
        assert zoo.names() == ["zoo/L", "zoo/S"]
        assert zoo.path("zoo/S").is_dir()
        with pytest.raises(ValueError, match=why):
            zoo.path("zoo/R")


@pytest.mark.parametrize("command", [["get"], ["carry", "anywhere"]])
def test_commands_say_what_is_wrong_with_the_cache_in_one_line(monkeypatch, tmp_path, command):
    monkeypatch.setenv(cache.VARIABLE, "~no-such-user/x")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "the cache folder ~no-such-user/x: there is no such home folder" in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
