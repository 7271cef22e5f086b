"""``illava batch`` in this process: answers, bad rows, and a run that was stopped."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

import illava
from illava.ask import ask, load
from illava.batch import run as work
from illava.batch.order import BATCHES
from illava.batch.run import Batch, in_this_process
from illava.batch.worker import Worker
from illava.errors import InputError
from illava.io.prompts import apply_template
from illava.io.shares import parse_share
from illava.serving.settings import Settings
from illava.serving.source import Source
from tests.cli.conftest import SRC, assert_error, invoke

from .conftest import DIAMOND, HEART, openai_row, read, timeless, write

OPTIONS = ("--model", "zoo/S", "--keep", "1/9", "--max-new-tokens", "6", "--max-batch", "2")
SETTINGS = Settings("zoo/S", keep=1 / 9, max_tokens=6, max_batch=2)
FILES = ("number.png", "small.png", "wide.png")


def many(count):
    """Good rows of several sizes."""
    return [
        {"id": f"r{i}", "picture": FILES[i % 3], "question": (HEART, DIAMOND)[i % 2]} for i in range(count)
    ]


@pytest.fixture(scope="module")
def loaded():
    return load("zoo/S")


def alone(loaded, row, folder):
    """(answer, new tokens, visual tokens, those left) of a row alone, without anything of the server."""
    model, processor = loaded
    text = row.get("question", HEART)
    names = row.get(
        "pictures", [row["picture"]] if "picture" in row else ["wide.png"] if "body" in row else []
    )
    keep = parse_share(row.get("keep", "1/9"))
    most = row.get("max_tokens", 3 if "body" in row else 6)
    if not names:
        chat = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        inputs = apply_template(processor, [chat], False)
        new = model.generate(**inputs, max_new_tokens=most, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
        return processor.tokenizer.decode(new, skip_special_tokens=True), len(new), 0, 0
    names = ["number.png" if name.startswith("data:") else name for name in names]
    paths = [folder / name for name in names]
    answer = ask(model, processor, paths, text, illava.Illava.best(keep), most)
    report = answer.report
    return answer.text, answer.timings[0].new_tokens, report.visual_tokens, report.final_tokens


def test_answers_are_those_of_each_row_alone(loaded, pictures):
    url = "data:image/png;base64," + base64.b64encode((pictures / "number.png").read_bytes()).decode()
    rows = [
        *many(7),
        {"id": 8, "picture": url, "question": HEART, "keep": "1/3"},
        {"question": "What is red?", "max_tokens": 2},
        {"id": "two", "pictures": ["small.png", str(pictures / "number.png")], "question": HEART},
        openai_row("o", "wide.png", HEART, model="zoo/S", max_tokens=3),
    ]
    out = pictures / "out.jsonl"
    result = invoke("batch", write(pictures / "in.jsonl", rows), out, *OPTIONS)
    assert (result.exit_code, result.stdout) == (0, f"{out}: 11 rows answered\n"), result.output
    lines = read(out)
    assert [line["row"] for line in lines] == list(range(1, 12))
    for row, line in zip(rows, lines, strict=True):
        text, tokens, before, after = alone(loaded, row, pictures)
        if "body" in row:
            assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("o", None, 200)
            body = line["response"]["body"]
            assert (body["model"], body["object"]) == ("zoo/S", "chat.completion")
            found, used = body["choices"][0]["message"]["content"], body["usage"]
        else:
            assert line["id"] == row.get("id")
            found, used = line["answer"], line["usage"]
        assert found.strip() == text.strip()
        assert used["completion_tokens"] == tokens
        assert used["visual_tokens"] == {"before": before, "after": after}
    assert not (pictures / "out.bad.jsonl").exists()


def test_bad_rows_go_to_a_side_file_and_can_be_corrected(pictures):
    (pictures / "large.png").write_bytes(b"0" * 3 * 2**20)
    os.mkfifo(pictures / "pipe.png")
    good = many(3)
    wrong = {
        "missing.png": "image 1, missing.png: no such file",
        "none.png": "image 1, none.png: this is not a PNG, JPEG, WebP or GIF picture",
        "broken.png": "image 1: the picture is broken or truncated",
        "pipe.png": "image 1, pipe.png: this is not a regular file",
        "large.png": "image 1, large.png, has more than 2 MB",
        "https://example.org/1.png": "image 1: URLs are not fetched",
        "data:image/png;base64,x": "image 1: its data URL is not valid base64",
    }
    rows = [{"id": name, "picture": name, "question": HEART} for name in wrong]
    rows += [
        "{oops",
        {"id": "video", "video": ["small.png", "number.png"], "question": HEART},
        {"id": "method", "picture": "small.png", "question": HEART, "method": "magic"},
        {"id": "long", "question": "word " * 5000},
        {"id": "keep", "question": HEART, "keep": 2},
    ]
    reasons = [*wrong.values(), "the row is not valid JSON", "", "unknown method", "are allowed"]
    reasons.append("keep must be a number above 0")
    path, out = write(pictures / "in.jsonl", [*rows, *good]), pictures / "out.jsonl"
    more = ("--max-picture-mb", 2, "--max-prompt-tokens", 900)
    result = invoke("batch", path, out, *OPTIONS, *more)
    assert (result.exit_code, result.stdout) == (0, f"{out}: 3 rows answered\n"), result.output
    assert f"{out.with_suffix('.bad.jsonl')}: 12 rows without an answer; row " in result.stderr
    bad = {line["row"]: line for line in read(pictures / "out.bad.jsonl")}
    assert sorted(bad) == list(range(1, 13))
    for number, (row, reason) in enumerate(zip(rows, reasons, strict=True), 1):
        assert reason in bad[number]["error"], bad[number]
        assert bad[number]["id"] == (None if isinstance(row, str) else row["id"])
    assert [line["id"] for line in read(out)] == ["r0", "r1", "r2"]
    # The user repairs two of them.
    (pictures / "missing.png").write_bytes((pictures / "small.png").read_bytes())
    rows[7] = {"id": "repaired", "question": HEART}
    write(path, [*rows, *good])
    result = invoke("batch", path, out, *OPTIONS, *more)
    assert result.stdout == f"{out}: 2 rows answered, 3 before\n"
    assert [line["id"] for line in read(out)] == ["missing.png", "repaired", "r0", "r1", "r2"]
    assert len(read(pictures / "out.bad.jsonl")) == 10


def test_a_row_that_fails_in_a_batch_is_answered_alone(pictures, monkeypatch):
    from illava.serving import engine as module

    generate, sizes = module.generate, []

    def failing(model, inputs, tokenizer, jobs, *rest):
        sizes.append(len(jobs))
        if len(jobs) > 1 or jobs[0].prompt.visual_tokens == 36:
            # As too little memory does, in the middle of an answer.
            for job in jobs:
                job.first_token = time.monotonic()
            raise RuntimeError("no\nmemory")
        generate(model, inputs, tokenizer, jobs, *rest)

    monkeypatch.setattr(module, "generate", failing)
    out = pictures / "out.jsonl"
    with Batch(write(pictures / "in.jsonl", many(6)), out, Source("zoo/S"), SETTINGS) as batch:
        done = batch.answer(in_this_process, batch.plan(lambda _: None), lambda _: None)
    # Of the three sizes two rows each; those of one size are neighbours.
    assert (done.answered, done.bad) == (4, 2)
    assert sorted(sizes) == [1] * 6 + [2] * 3
    assert [line["error"] for line in read(done.side)] == ["RuntimeError: no memory"] * 2


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a run without interruption writes for 20 rows; its pictures are those of each test."""
    from illava.io.pictures import open_picture

    place = tmp_path_factory.mktemp("whole")
    number = open_picture("demo/number.png")
    for name, size in zip(FILES, (number.size, (96, 96), (288, 192)), strict=True):
        number.resize(size).save(place / name) if size != number.size else number.save(place / name)
    out = place / "out.jsonl"
    with Batch(write(place / "in.jsonl", many(20)), out, Source("zoo/S"), SETTINGS) as batch:
        batch.answer(in_this_process, batch.plan(lambda _: None), lambda _: None)
    assert len(read(out)) == 20
    return read(out)


def test_a_run_that_stops_after_any_chunk_is_continued(pictures, uninterrupted, monkeypatch):
    path, out = write(pictures / "in.jsonl", many(20)), pictures / "out.jsonl"
    asked = []
    answer = Worker.answer

    def counted(worker, lines):
        asked.extend(line.number for line in lines)
        return answer(worker, lines)

    monkeypatch.setattr(Worker, "answer", counted)

    def stopping(*given):
        yield next(in_this_process(*given))
        raise KeyboardInterrupt

    chunk = BATCHES * SETTINGS.max_batch
    for left in (20, 20 - chunk):
        with Batch(path, out, Source("zoo/S"), SETTINGS) as batch, pytest.raises(KeyboardInterrupt):
            assert batch.left == left
            batch.answer(stopping, batch.plan(lambda _: None), lambda _: None)
        assert len(read(out)) == 20 - left + chunk
    # Large pictures were first: the lines are in the order in which they were answered.
    tokens = [line["usage"]["visual_tokens"]["before"] for line in read(out)]
    assert all(before >= after for before, after in pairwise(tokens))
    steps = []
    with Batch(path, out, Source("zoo/S"), SETTINGS) as batch:
        done = batch.answer(in_this_process, batch.plan(lambda _: None), steps.append)
    assert (done.answered, done.before, done.bad) == (20 - 2 * chunk, 2 * chunk, 0)
    assert sum(steps) == 20 - 2 * chunk
    assert sorted(asked) == list(range(1, 21))
    assert list(map(timeless, read(out))) == list(map(timeless, uninterrupted))
    # A run without anything to do loads no model.
    monkeypatch.setattr(work, "Worker", lambda *_: pytest.fail("the model was loaded"))
    assert invoke("batch", path, out, *OPTIONS).stdout == f"{out}: 0 rows answered, 20 before\n"


def test_a_killed_process_is_continued(pictures, uninterrupted):
    path, out = write(pictures / "in.jsonl", many(20)), pictures / "out.jsonl"
    code = "import sys; sys.argv[0] = 'illava'\nfrom illava.cli import main; main()"
    paths = [str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, "batch", str(path), str(out), *OPTIONS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        end = time.monotonic() + 300
        while not (out.exists() and out.stat().st_size) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = {line["row"]: line for line in read(out)}
    assert before
    assert invoke("batch", path, out, *OPTIONS).exit_code == 0
    lines = read(out)
    assert list(map(timeless, lines)) == list(map(timeless, uninterrupted))
    assert all(line == before.get(line["row"], line) for line in lines)


def test_without_any_row(pictures):
    out = pictures / "out.jsonl"
    assert_error(invoke("batch", pictures / "none.jsonl", out, *OPTIONS), "none.jsonl: no such file")
    assert_error(invoke("batch", pictures, out, *OPTIONS), "not a file; give the rows")
    assert_error(invoke("batch", write(pictures / "in.jsonl", []), out, *OPTIONS), "in.jsonl: it is empty")
    assert not out.exists()


def test_in_is_not_overwritten(pictures):
    path = write(pictures / "in.bad.jsonl", many(1))
    for out in (path, pictures / "in.jsonl"):
        assert_error(invoke("batch", path, out, *OPTIONS), "this is an input")
    assert len(read(path)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--keep", "2"), "--keep 2: give a number above 0"),
        (("--method", "magic"), "magic: unknown method"),
        (("--model", "no/such/model"), "model no/such/model"),
        (("--max-megapixels", "0"), "max_megapixels must be above 0"),
        (("--address", "auto"), "--address auto: give --workers as well"),
    ],
)
def test_refused_before_rows_are_read(pictures, words, said, monkeypatch):
    monkeypatch.setattr(work, "read_lines", lambda _: pytest.fail("the rows were read"))
    path = write(pictures / "in.jsonl", many(1))
    assert_error(invoke("batch", path, pictures / "out.jsonl", *OPTIONS, *words), said)
    assert not (pictures / "out.jsonl").exists()


def test_without_the_extras(pictures, monkeypatch):
    path, out = write(pictures / "in.jsonl", many(1)), pictures / "out.jsonl"
    have = {"ray": None, "pydantic": object(), "prometheus_client": object()}
    monkeypatch.setattr("importlib.util.find_spec", have.get)
    said = "--workers needs Ray: pip install 'illava[ray]'"
    assert_error(invoke("batch", path, out, *OPTIONS, "--workers", 2), said)
    have["pydantic"] = None
    said = "this command needs pydantic: pip install 'illava[serve]'"
    assert_error(invoke("batch", path, out, *OPTIONS), said)


def test_the_method_must_fit_the_model(pictures):
    path = write(pictures / "in.jsonl", many(1))
    with (
        pytest.raises(InputError, match="method fastv"),
        Batch(path, pictures / "out.jsonl", Source("zoo/S"), Settings("zoo/S", method="fastv-99")) as batch,
    ):
        batch.answer(in_this_process, batch.plan(lambda _: None), lambda _: None)
