"""Behind the demo page: answers as they grow, what is refused, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from itertools import pairwise

import pytest
import torch
from PIL import Image

import illava
from illava.ask import ask, load
from illava.demo import serve
from illava.demo import server as work
from illava.demo.server import BUDGETS, MOST_FILES, MOST_MEGABYTES, Server, read, table
from illava.errors import UnsupportedError
from illava.io.pictures import InputError


def last(server, *words):
    return list(server.answer(*words))[-1]


def test_both_answers_are_those_of_ask(server, folder, picture):
    model, processor = load(str(folder))
    told = ask(model, processor, [picture], "What?", illava.Illava.best(1 / 3), 128, compare=True, rounds=1)
    merged, plain, report, given = last(server, [str(picture)], "What?", str(folder), "illava-best", "1/3")
    assert (merged.text, plain.text) == (told.text, told.plain_text)
    assert report.to_dict()["steps"] == told.report.to_dict()["steps"]
    assert len(given) == 1
    assert 0 < merged.first <= merged.total
    rows = {row[0]: row[1:] for row in table(merged, plain, report)}
    counts = report.visual_tokens, report.final_tokens
    assert rows["visual tokens at the end"] == [*map(str, counts), f"{counts[0] / counts[1]:.2f}x"]
    assert rows["KV cache, kB"][2] == f"{report.plain_cost.kv_bytes / report.cost.kv_bytes:.2f}x"


def test_answers_grow_merged_first(server, folder, picture):
    states = list(server.answer([str(picture)], "What?", str(folder), "illava-best", "1/9"))
    merged = [m.text for m, *_ in states]
    assert all(a.strip().startswith(b.strip()) for b, a in pairwise(merged))
    assert states[0][1].tokens == 0
    assert states[-1][1].tokens > 0
    assert states[0][2] is None
    assert states[-1][2] is not None


def test_a_video_and_several_pictures(server, folder, picture, tmp_path):
    clip = tmp_path / "c.mp4"
    import av

    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(4):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (60 * number, 0, 0)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    *_, report, given = last(server, [str(clip)], "What?", str(folder), "illava-best", "1/3")
    assert report.pictures[0].kind == "video"
    assert len(given[0]) == 4
    *_, report, given = last(server, [str(picture)] * 3, "What?", str(folder), "fastv", "1/3")
    assert len(report.pictures) == len(given) == 3
    *_, report, _ = last(server, [str(picture)], "What?", str(folder), "illava-best", "all")
    assert report.final_tokens == report.visual_tokens


def test_who_leaves_stops_the_answer_and_frees_the_model(server, folder, picture):
    running = server.answer([str(picture)], "What?", str(folder), "illava-best", "1/9")
    next(running)
    running.close()
    assert not server.lock.locked()
    model, _ = server.model(str(folder))
    illava.accelerate(model).remove()


def test_fifty_bad_uploads_in_a_row_leave_it_serving(server, folder, picture, tmp_path):
    generator = torch.Generator().manual_seed(0)
    good = picture.read_bytes()
    for number in range(50):
        junk = bytes(torch.randint(0, 256, (200,), generator=generator, dtype=torch.uint8).tolist())
        contents = [b"", junk, good[: 40 + 5 * number], b"<svg/>", b"%PDF-1.4" + junk][number % 5]
        bad = tmp_path / f"bad{number}.{['png', 'jpg', 'mp4', 'webp', 'gif'][number % 5]}"
        bad.write_bytes(contents)
        with pytest.raises(InputError) as error:
            last(server, [str(bad)], "What?", str(folder), "illava-best", "1/9")
        assert "\n" not in str(error.value)
        assert str(tmp_path) not in str(error.value)
        assert not server.lock.locked()
    assert last(server, [str(picture)], "What?", str(folder), "illava-best", "1/9")[1].tokens > 0


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "upload an image"),
        (["x.png"] * (MOST_FILES + 1), "9 files are too many"),
        (["/nowhere/x.png"], "the upload has expired"),
    ],
)
def test_refused_uploads(files, said):
    with pytest.raises(InputError, match=said):
        read(files)


def test_large_and_mixed_uploads_are_refused(picture, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(MOST_MEGABYTES * 2**20 + 1)
    with pytest.raises(InputError, match=r"large\.png: larger than 20 MB"):
        read([str(large)])
    clip = tmp_path / "c.mp4"
    clip.write_bytes(b"x")
    with pytest.raises(InputError, match="either images or one video"):
        read([str(picture), str(clip)])


def test_refused_questions(server, folder, picture):
    name = str(folder)
    for words, said in (
        (("  ", name, "illava-best", "1/9"), "write a question"),
        (("What?", "gpt", "illava-best", "1/9"), "unknown model 'gpt'"),
        (("What?", name, "magic", "1/9"), "unknown method"),
        (("What?", name, "illava-best", "7"), "unknown budget '7'"),
    ):
        with pytest.raises((InputError, UnsupportedError), match=said):
            last(server, [str(picture)], *words)
    assert set(BUDGETS) == {"all", "1/2", "1/3", "1/6", "1/9", "1/18"}


def test_errors_of_the_models_thread_come_out(server, folder, picture, monkeypatch):
    model, _ = server.model(str(folder))

    def fail(**_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        last(server, [str(picture)], "What?", str(folder), "illava-best", "1/9")
    monkeypatch.undo()
    illava.accelerate(model).remove()


def test_uploads_go_with_their_session(tmp_path):
    server = Server(["zoo/S"])
    files = {name: tmp_path / name for name in ("a", "b")}
    for name, path in files.items():
        path.write_bytes(b"x")
        server.note(name, [str(path)])
    server.note("c", [str(files["b"])])
    server.forget("a")
    server.forget("never seen")
    # Equal files are one, which two sessions hold.
    server.forget("c")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["b"]
    server.forget("b")
    assert not list(tmp_path.iterdir())


def test_the_shipped_models_are_offered():
    assert work.shipped()[0] == "zoo/L"


def test_the_best_is_offered_first_and_each_once(monkeypatch, tmp_path):
    folders = {"zoo/best": "1", "zoo/best-448": "1", "zoo/a": "2"}
    monkeypatch.setattr(work.zoo, "names", lambda: list(folders))
    monkeypatch.setattr(work.zoo, "path", lambda name: tmp_path / folders[name])
    assert work.shipped() == ["zoo/best", "zoo/a"]


def test_a_server_that_stops_leaves_the_process_as_it_was(monkeypatch, tmp_path):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="in use"):
        serve(Server(["unused"]), port=taken.getsockname()[1])
    assert "GRADIO_TEMP_DIR" not in os.environ
    assert signal.getsignal(signal.SIGTERM) is before
    assert not list(tmp_path.iterdir())
