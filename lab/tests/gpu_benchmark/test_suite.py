"""The part "suite": counts, interruptions, time limits and the digest, with tests made for it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from illava_lab.benchmarks.gpu.budget import Budget
from illava_lab.benchmarks.gpu.context import Context
from illava_lab.benchmarks.gpu.parts import suite
from illava_lab.benchmarks.gpu.settings import REHEARSAL

TESTS = """
import time, pytest
def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="no card")
def test_skipped(): pass
"""


def test_passed_failed_and_skipped_are_counted_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    found = suite.run(60, "test_it.py", tmp_path)
    assert (found["passed"], found["skipped"]) == (1, {"no card": 1})
    assert [*found["failed"]] == ["test_it::test_fails"]
    assert "assert 1 == 2" in found["failed"]["test_it::test_fails"]
    assert found["failure"] == "exit code 1, 1 failed: test_it::test_fails"
    (tmp_path / "test_it.py").write_text("def test_passes(): pass")
    assert suite.run(60, "test_it.py", tmp_path)["failure"] is None


HANGS = """
import os, signal, time
# A process started in the background of a shell inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def test_passes(): pass
def test_hangs():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
def test_later(): pass
"""


def test_an_interrupted_suite_is_an_error_that_names_where(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HANGS)
    said = "interrupted after test_it::test_passes; the limit is 60 s; 1 passed, 0 failed"
    with pytest.raises(RuntimeError, match=said):
        suite.run(60, "test_it.py", tmp_path)


def test_a_suite_ends_with_its_time_limit(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import time\ntime.sleep(60)")
    with pytest.raises(RuntimeError, match=r"the limit is 1 s|no results"):
        suite.run(1, "test_it.py", tmp_path)


LEAVES = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session={apart})
pathlib.Path("child").write_text(str(child.pid))
time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_a_suite_that_ignores_its_limit_is_ended_although_others_hold_its_output(
    apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held for 300 s by a process of the same group, which is ended too, or by one of another group."""
    monkeypatch.setattr(suite, "GRACE", 1)
    (tmp_path / "test_it.py").write_text(LEAVES.format(apart=apart))
    with pytest.raises(RuntimeError, match="no results"):
        suite.run(8, "test_it.py", tmp_path)
    child = int((tmp_path / "child").read_text())
    assert apart or ends(child)
    if apart:
        assert running(child)
        os.kill(child, signal.SIGKILL)


def running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(process: int) -> bool:
    """Whether a process ends soon: a killed one takes a moment."""
    until = time.monotonic() + 20
    while running(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not running(process)


def test_a_suite_that_ends_leaves_no_process(tmp_path: Path) -> None:
    child = (
        LEAVES.partition("signal.signal")[0] + LEAVES[LEAVES.index("child =") : LEAVES.rindex("time.sleep")]
    )
    child = child.replace("start_new_session={apart}", "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL")
    (tmp_path / "test_it.py").write_text(child + "def test_passes(): pass\n")
    assert suite.run(60, "test_it.py", tmp_path)["failure"] is None
    assert ends(int((tmp_path / "child").read_text()))


def test_the_digest_follows_every_test_and_what_they_import(tmp_path: Path) -> None:
    (tmp_path / "tests/gpu").mkdir(parents=True)
    seen = {suite.digest(tmp_path)}
    for name in ("tests/gpu/test_it.py", "tests/tiny.py"):
        for text in ("", "#"):
            (tmp_path / name).write_text(text)
            seen.add(suite.digest(tmp_path))
    assert len(seen) == 5
    (tmp_path / "tests/notes.txt").write_text("no code")
    assert suite.digest(tmp_path) in seen
    (row,) = suite.rows(Context(REHEARSAL, Budget(100)))
    assert row.digest == suite.digest()


def test_a_rehearsal_collects(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    found = suite.collect(60, "test_it.py", tmp_path)
    assert (found["collected"], found["run"], found["failure"]) == (3, 0, None)
    (tmp_path / "test_it.py").write_text("import nothing_of_this_name")
    assert "nothing_of_this_name" in suite.collect(60, "test_it.py", tmp_path)["failure"]
