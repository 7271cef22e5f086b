"""Part "suite": tests/gpu, in a process of its own with a time limit, counted from its JUnit file."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..context import Context, Row

ROOT = Path(__file__).parents[5]
TESTS = "tests/gpu"
INTERRUPTED = 2
"""Pytest's exit code after Ctrl-C."""
GRACE = 15
"""Seconds that pytest has to write its file once it was interrupted."""


def rows(context: Context) -> Iterable[Row]:
    """Run all tests on a card; in a rehearsal collect them, since every one of them needs a card."""
    seconds, tests = context.settings.suite_seconds, digest()
    if context.settings.rehearsal:
        yield Row("collection", seconds / 2, lambda: collect(seconds), digest=tests)
    else:
        # Half of the limit: the limit itself is for suites that hang.
        yield Row("tests", seconds / 2, lambda: run(min(seconds, context.budget.left())), digest=tests)


def digest(root: Path = ROOT) -> str:
    """A digest of the tests and of what they import: the result of other tests is not used again."""
    found = hashlib.sha256()
    for file in sorted((root / "tests").rglob("*.py")):
        found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def collect(seconds: float, tests: str = TESTS, root: Path = ROOT) -> Mapping[str, Any]:
    """Collect the tests without running them."""
    code, output = _pytest(["--collect-only", tests], seconds, root)
    names = [line for line in output.splitlines() if "::" in line and " " not in line.partition("[")[0]]
    failed = f"collection ended with exit code {code}: {output[-1500:]}" if code or not names else None
    return {"collected": len(names), "run": 0, "note": "collected only: no card", "failure": failed}


def run(seconds: float, tests: str = TESTS, root: Path = ROOT) -> Mapping[str, Any]:
    """Run the tests.

    Raises RuntimeError if they were interrupted, by the time limit or otherwise: a further call tries again.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junit.xml"
        code, output = _pytest([tests, f"--junitxml={file}"], seconds, root)
        found = counted(file) if file.exists() else None
    if found is None:
        raise RuntimeError(f"{output[-1500:]}\npytest ended with exit code {code} and no results")
    if code in (None, INTERRUPTED):
        so_far = f"{found['passed']} passed, {len(found['failed'])} failed{_list(found['failed'])}"
        raise RuntimeError(f"interrupted after {found['last']}; the limit is {seconds:.0f} s; {so_far}")
    failed = found["failed"]
    if code:
        names = ", ".join(failed) or output[-1500:]
        return {**found, "failure": f"exit code {code}, {len(failed)} failed: {names}"}
    return {**found, "failure": None}


def _list(failed: Mapping[str, str]) -> str:
    return f": {', '.join(failed)}" if failed else ""


def counted(file: Path) -> dict[str, Any]:
    """Passed, failed and skipped tests of a JUnit file, with reasons and the slowest ones."""
    # The test that was running when the suite was interrupted has no name, and looks as if it had passed.
    cases = [case for case in xml.parse(file).getroot().iter("testcase") if case.get("name")]
    failed: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    passed, slowest = 0, []
    for case in cases:
        name = _name(case)
        slowest.append((float(case.get("time") or 0), name))
        bad = [child for child in case if child.tag in ("failure", "error")]
        skip = case.find("skipped")
        if bad:
            failed[name] = (bad[0].get("message") or bad[0].text or "")[:500]
        elif skip is not None:
            skipped[skip.get("message") or ""] += 1
        else:
            passed += 1
    slowest.sort(reverse=True)
    return {
        "passed": passed,
        "failed": failed,
        "skipped": dict(skipped),
        "slowest": {name: seconds for seconds, name in slowest[:5]},
        "last": _name(cases[-1]) if cases else None,
    }


def _name(case: xml.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def _pytest(arguments: list[str], seconds: float, root: Path) -> tuple[int | None, str]:
    """Exit code and output of pytest; the code is None if the time limit ended it."""
    paths = [str(root / "src"), str(root / "lab"), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=-q", *arguments],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            # Plugins that happen to be installed may take long to import, and none is needed.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A group of its own, so that what it started can be ended with it.
        start_new_session=True,
    )
    try:
        return _ended(process, seconds)
    finally:
        # Also after Ctrl-C, which does not reach another session.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(process: subprocess.Popen[str], seconds: float) -> tuple[int | None, str]:
    """Exit code and output of a process; the code is None if the time limit ended it."""
    try:
        output, _ = process.communicate(timeout=max(1.0, seconds))
        return process.returncode, output
    except subprocess.TimeoutExpired:
        # As Ctrl-C does: pytest then still writes what it has.
        process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        return None, process.communicate(timeout=GRACE)[0]
    os.killpg(process.pid, signal.SIGKILL)
    # A process that left the group may hold the other end of the pipe for as long as it likes.
    with suppress(subprocess.TimeoutExpired):
        return None, process.communicate(timeout=GRACE)[0]
    return None, "no output: a process that the tests started still holds it"
