"""The user's own data: what a samples.jsonl may hold, and how bad lines are named."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from illava.evaluation.data import MAX_LINE, FolderTask
from illava.io.pictures import InputError
from illava.io.video import MAX_FRAMES, read_video, spaced

GOOD = {"picture": "a.png", "question": "What?", "answer": "x"}


def write(folder: Path, *rows: object) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "samples.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_good_lines(folder):
    write(
        folder,
        {**GOOD, "kind": "k", "source": "ignored"},
        "",
        {"pictures": ["b.png", "a.png"], "question": "Què?", "answers": ["two", 2]},
        {"video": "clip", "question": "Which?", "answer": 1.5},
    )
    task = FolderTask(folder, 9)
    assert (task.name, len(task), task.bad) == ("mine", 3, [])
    one, two, three = (task[n] for n in range(3))
    assert (one.task, one.number, one.kind, one.cluster, one.answers) == ("mine", 0, "k", "a.png", ("x",))
    assert one.pictures[0].size == (40, 30)
    assert [p.getpixel((0, 0)) for p in two.pictures] == [(0, 0, 255), (255, 0, 0)]
    assert (two.question, two.answers, two.cluster) == ("Què?", ("two", "2"), "b.png|a.png")
    assert two.is_right(" TWO. ")
    # f10 comes after f9.
    assert [frame.getpixel((0, 0))[0] for frame in three.video] == list(range(11))
    assert (three.pictures, three.answers, three.cluster) == ((), ("1.5",), "clip")


BAD = {
    "{": "not JSON",
    "[1]": "not a JSON object",
    '{"picture": "a.png", "answer": "x"}': "no question",
    '{"picture": "a.png", "question": " ", "answer": "x"}': "no question",
    '{"picture": "a.png", "question": "What?"}': "give one of answer and answers",
    '{"picture": "a.png", "question": "What?", "answer": "x", "answers": ["x"]}': "give one of answer",
    '{"picture": "a.png", "question": "What?", "answers": []}': "at least one answer",
    '{"picture": "a.png", "question": "What?", "answers": "x"}': "must be a list",
    '{"picture": "a.png", "question": "What?", "answer": true}': "a string or a number, not true",
    '{"picture": "a.png", "question": "What?", "answer": ""}': 'a string or a number, not ""',
    '{"question": "What?", "answer": "x"}': "give one of picture, pictures and video",
    '{"picture": "a.png", "video": "clip", "question": "What?", "answer": "x"}': "give one of picture,",
    '{"pictures": [], "question": "What?", "answer": "x"}': "at least one path",
    '{"pictures": "a.png", "question": "What?", "answer": "x"}': "must be a list",
    '{"picture": 3, "question": "What?", "answer": "x"}': "must be a path, not 3",
    '{"picture": "no.png", "question": "What?", "answer": "x"}': "no.png: no such file",
    '{"picture": "a\\u0000b", "question": "What?", "answer": "x"}': "no such file",
    '{"picture": "../mine/a.png", "question": "What?", "answer": "x"}': "stay inside",
    '{"picture": "/etc/passwd", "question": "What?", "answer": "x"}': "stay inside",
    '{"picture": "clip", "question": "What?", "answer": "x"}': "clip: this is a folder",
    '{"picture": "broken.png", "question": "What?", "answer": "x"}': "broken.png: the picture is broken",
    '{"picture": "a.png", "question": "What?", "answer": "x", "kind": 1}': "kind must be a string",
    '{"video": "empty", "question": "What?", "answer": "x"}': "empty: there are no frames",
    '{"video": "mixed", "question": "What?", "answer": "x"}': "mixed: its frames differ in size",
}


def test_bad_lines_all_in_one_go(folder):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "empty").mkdir()
    (folder / "mixed").mkdir()
    for name, size in (("1.png", (8, 8)), ("2.png", (8, 9))):
        Image.new("RGB", size).save(folder / "mixed" / name)
    write(folder, GOOD, *BAD, GOOD)
    task = FolderTask(folder, 9, skip_bad=True)
    assert len(task) == 2
    assert len(task.bad) == len(BAD)
    for number, (reason, part) in enumerate(zip(task.bad, BAD.values(), strict=True), 2):
        assert reason.startswith(f"line {number}: ")
        assert part in reason
    with pytest.raises(InputError) as error:
        FolderTask(folder, 9)
    told = "; ".join(task.bad[:3])
    assert f"{told}; and {len(BAD) - 3} more; correct these lines or give --skip-bad" in str(error.value)


def test_nothing_good(folder):
    write(folder, "{")
    with pytest.raises(InputError, match="no valid line; give at least one; line 1: not JSON"):
        FolderTask(folder, 9, skip_bad=True)
    write(folder)
    with pytest.raises(InputError, match="no valid line"):
        FolderTask(folder, 9)
    (folder / "samples.jsonl").unlink()
    with pytest.raises(InputError, match=r"samples\.jsonl: cannot be read: No such file.* needs a samples"):
        FolderTask(folder, 9)


def test_not_utf8(folder):
    (folder / "samples.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(InputError, match="line 2: not JSON"):
        FolderTask(folder, 9)


def test_endless_line(folder):
    (folder / "samples.jsonl").write_bytes(b"[" * (MAX_LINE + 5))
    with pytest.raises(InputError, match=f"line 1 has more than {MAX_LINE} bytes"):
        FolderTask(folder, 9)
    (folder / "samples.jsonl").write_bytes(b"[" * 100_000)
    with pytest.raises(InputError, match="line 1: not JSON"):
        FolderTask(folder, 9)


def test_pictures_are_opened_up_to_the_limit(folder):
    (folder / "broken.png").write_bytes(b"x")
    write(folder, GOOD, GOOD, {**GOOD, "picture": "broken.png"})
    assert len(FolderTask(folder, 2)) == 3
    with pytest.raises(InputError, match=r"line 3: broken\.png"):
        FolderTask(folder, 3)


def test_too_many_pixels(folder, monkeypatch):
    write(folder, GOOD, {"video": "clip", "question": "What?", "answer": "x"})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        InputError, match=r"line 1: a\.png: .* more than 1000 pixels.*; line 2: clip: 11 frames"
    ):
        FolderTask(folder, 9)


def test_a_folder_called_demo_is_not_the_shipped_one(folder, monkeypatch):
    (folder / "demo").mkdir()
    Image.new("RGB", (7, 7)).save(folder / "demo" / "number.png")
    write(folder, {**GOOD, "picture": "demo/number.png"})
    monkeypatch.chdir(folder)
    assert FolderTask(".", 9)[0].pictures[0].size == (7, 7)


def test_fingerprint_changes_with_lines_and_files(folder):
    write(folder, GOOD)
    before = FolderTask(folder, 9).fingerprint
    assert FolderTask(folder, 1).fingerprint == before
    Image.effect_noise((40, 30), 50).save(folder / "a.png")
    changed = FolderTask(folder, 9).fingerprint
    write(folder, GOOD, GOOD)
    assert len({before, changed, FolderTask(folder, 9).fingerprint}) == 3


def test_long_clips_are_thinned(folder):
    assert spaced(5, 9) == [0, 1, 2, 3, 4]
    assert spaced(9, 3) == [1, 4, 7]
    assert spaced(0, 3) == []
    for number in range(11, 100):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(folder / "clip" / f"f{number}.png")
    shades = [frame.getpixel((0, 0))[0] for frame in read_video(folder / "clip")]
    assert len(shades) == MAX_FRAMES
    assert shades == sorted(shades)
    assert max(b - a for a, b in pairwise(shades)) <= 4


def test_video_file_without_pyav(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (folder / "c.mp4").write_bytes(b"x")
    write(folder, {"video": "c.mp4", "question": "What?", "answer": "x"})
    with pytest.raises(InputError, match=r"line 1: c\.mp4: .*'illava\[eval\]'; or give a folder of frames"):
        FolderTask(folder, 9)


def test_video_file(folder):
    import av

    with av.open(str(folder / "c.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(300):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (number * 255 // 299,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = read_video(folder / "c.mp4")
    shades = [frame.getpixel((30, 20))[0] for frame in frames]
    assert len(shades) == MAX_FRAMES
    assert {frame.size for frame in frames} == {(64, 48)}
    assert shades == sorted(shades)
    assert shades[0] < 20
    assert shades[-1] > 235
    (folder / "c.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="the video cannot be read"):
        read_video(folder / "c.mp4")
