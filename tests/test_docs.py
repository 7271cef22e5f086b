"""README and docs: every python block runs, page by page; every command exists and accepts its options.

A text block after a python block is the output of that block. A checkpoint of the hub is replaced by the toy
model zoo/S, a config of the hub by one of the same published size. A block is excluded only by a comment
right before it: ``<!-- not run: the reason -->``.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import illava
from illava import api as handles
from illava.ask import load
from illava.bench.published import config as published_config
from illava.cli.app import app
from illava.methods import base

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LANGUAGES = {"python", "bash", "json", "text"}
FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
NOT_RUN = re.compile(r"<!--\s*not run(.*?)-->")
# Pages with calls of accelerate() that are alternatives: each starts from the plain model.
CHOICES = ("README.md",)
DEEP = "Qwen/Qwen2-VL-7B-Instruct"
CONFIGS = {"Qwen/Qwen2-VL-2B-Instruct": "qwen2-vl-2b", DEEP: "qwen2-vl-7b"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Of its first line of code, from 1."""
    reason: str | None
    """Why it is not run."""


def blocks(text: str) -> list[Block]:
    """All fenced blocks. Raises AssertionError for an exclusion without a reason, or of nothing."""
    out: list[Block] = []
    lines = text.splitlines()
    number, reason = 0, None
    while number < len(lines):
        line = lines[number]
        number += 1
        if found := NOT_RUN.search(line):
            assert reason is None, f"line {number}: an exclusion must stand right before a block"
            reason = re.sub(r"^\s*:\s*|\s+$", "", found[1])
            assert found[1].lstrip().startswith(":"), f"line {number}: write <!-- not run: the reason -->"
            assert reason, f"line {number}: an exclusion needs a reason"
        elif opened := FENCE.match(line):
            first, indent, mark = number, len(opened[1]), opened[2]
            while lines[number].strip() != mark:
                number += 1
            inside = "\n".join(part[indent:] for part in lines[first:number])
            out.append(Block(opened[3].strip(), inside, first + 1, reason))
            number, reason = number + 1, None
        else:
            assert reason is None or not line.strip(), (
                f"line {number}: an exclusion must stand right before a block"
            )
    assert reason is None, "an exclusion at the end of a page"
    return out


def of(language: str) -> list[Any]:
    """The pages that have blocks in a language, as parameters."""
    pages = [page for page in PAGES if f"```{language}\n" in page.read_text()]
    return [pytest.param(page, id=page.name) for page in pages]


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page.read_text()):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: {block.language!r}"


def test_exclusions_need_a_reason_and_a_block() -> None:
    code = "```python\n1 / 0\n```\n"
    (block,) = blocks(f"<!-- not run: it raises -->\n{code}")
    assert (block.reason, block.text, block.line) == ("it raises", "1 / 0", 3)
    assert [b.reason for b in blocks(f"<!-- not run: it raises -->\n\n{code}{code}")] == ["it raises", None]
    wrong = (
        "<!-- not run -->\n",
        "<!-- not run: -->\n",
        "<!-- not run because -->\n",
        "<!-- not run: x -->\ntext\n",
    )
    for before in wrong:
        with pytest.raises(AssertionError):
            blocks(before + code)
    with pytest.raises(AssertionError):
        blocks(f"{code}<!-- not run: x -->\n")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, no graphics card, an empty working directory; methods of a page are forgotten behind it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_METHODS", dict(base._METHODS))
    real = {kind: kind.from_pretrained for kind in (AutoModelForImageTextToText, AutoProcessor, AutoConfig)}
    shipped = str(illava.zoo.path("zoo/S"))

    def named(kind: Any) -> Any:
        def from_pretrained(name: Any, *args: Any, **options: Any) -> Any:
            if Path(name).is_dir():
                return real[kind](name, *args, **options)
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)), f"{name} is no id of the hub"
            if kind is AutoConfig:
                return published_config(CONFIGS[name])
            if kind is AutoModelForImageTextToText and name == DEEP:
                return deep(real[AutoConfig](shipped))
            if not torch.cuda.is_available():
                options.pop("device_map", None)
            return real[kind](shipped, *args, **options)

        return from_pretrained

    for kind in real:
        monkeypatch.setattr(kind, "from_pretrained", named(kind))


def deep(config: Any) -> Any:
    """The shipped model's shape with as many blocks and layers as the one that README merges by number."""
    config.vision_config.depth, config.text_config.num_hidden_layers = 32, 28
    config.text_config.layer_types = ["full_attention"] * 28
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(config).eval()


def namespace(page: Path) -> dict[str, Any]:
    """What a page takes for granted."""
    names: dict[str, Any] = {"__name__": "shown"}
    if page.name == "README.md":
        # Its alternatives are about any loaded model.
        names["model"] = load("zoo/S")[0]
    return names


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", of("python"))
def test_python(page: Path, stand_ins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, "shown", types.ModuleType("shown"))
    names = namespace(page)
    left: list[illava.Handle] = []
    shown = blocks(page.read_text())
    if page.name in CHOICES:
        accelerate = handles.accelerate

        def alone(model: Any, *args: Any, **options: Any) -> illava.Handle:
            while left:
                left.pop().remove()
            left.append(accelerate(model, *args, **options))
            return left[-1]

        monkeypatch.setattr(illava, "accelerate", alone, raising=False)
    for block, following in zip(shown, [*shown[1:], None], strict=True):
        if block.language != "python" or block.reason:
            continue
        # Line numbers in an error are those of the page.
        tree = ast.increment_lineno(ast.parse(block.text, str(page)), block.line - 1)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, str(page), "exec"), names)
        if following is not None and following.language == "text":
            assert printed.getvalue().strip() == following.text.strip(), f"{page.name}:{following.line}"


def commands(text: str) -> list[list[str]]:
    """The words of each line of a bash block, comments left out."""
    joined = text.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def check_illava(arguments: list[str]) -> None:
    """Parse as the command line would, without running anything."""
    group = typer.main.get_command(app)
    name, *rest = arguments
    with group.make_context("illava", [name], resilient_parsing=True) as context:
        command = group.get_command(context, name)
        assert command is not None, f"no such command: {name}"
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", of("bash"))
def test_commands(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for block in blocks(page.read_text()):
        if block.language != "bash" or block.reason:
            continue
        for words in commands(block.text):
            where = f"{page.name}:{block.line}: {shlex.join(words)}"
            match words:
                case ["illava", *arguments]:
                    try:
                        check_illava(arguments)
                    except Exception as error:
                        pytest.fail(f"{where}: {type(error).__name__}: {error}")
                case ["make", *named]:
                    assert set(named) <= targets, where
                case ["python", "-m", module, *_]:
                    assert importlib.util.find_spec(module), where
                case ["python", script, *_]:
                    assert (ROOT / script).is_file(), where
                case ["pip", "install", "./lab"]:
                    assert (ROOT / "lab" / "pyproject.toml").is_file(), where
                case ["pip", "install", what]:
                    extra = re.fullmatch(r"\.(?:\[(\w+)\])?", what)
                    assert extra, where
                    assert extra[1] is None or extra[1] in extras, where
                case _:
                    pytest.fail(f"{where}: nobody checks this command")


def test_commands_behind_the_figures_exist() -> None:
    """Commands in running text, such as those named beside a table."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = 0
    for page in PAGES:
        for words in map(str.split, re.findall(r"`((?:python|make) [^`\n]+)`", page.read_text())):
            where = f"{page.name}: {' '.join(words)}"
            match words:
                case ["make", target, *_]:
                    assert target in targets, where
                case ["python", "-m", module, *_]:
                    assert importlib.util.find_spec(module), where
                case ["python", script, *_]:
                    assert (ROOT / script).is_file(), where
            found += 1
    assert found > 10


def test_the_map_of_the_code_leads_to_definitions() -> None:
    """Every row of the table "Where is it": the module exists and defines the name."""
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    rows = re.findall(r"^\|.*\| `(illava/[\w/]+\.py)` \| `(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) > 20
    for module, name in rows:
        body = ast.parse((ROOT / "src" / module).read_text()).body
        defined = {getattr(node, "name", None) for node in body}
        assert name in defined, f"{module}: {name}"


@pytest.mark.parametrize(
    "wrong",
    [
        "illava ask",
        "illava look a.png --no-such-option",
        "illava nothing",
        "illava ask a.png Why? --rounds many",
    ],
)
def test_wrong_commands_are_noticed(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)missing|no such|valid integer"):
        check_illava(wrong.split()[1:])
