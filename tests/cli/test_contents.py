"""What a file is, its content decides: videos and pictures under any name, in look, ask and the demo."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import pytest
from PIL import Image

from illava.demo.server import read
from illava.io.containers import starts_a_video
from illava.io.pictures import InputError, open_picture
from illava.io.video import is_video, read_video

from .conftest import assert_error, invoke

SMALL = ("--max-new-tokens", "2")
CONTAINERS = {
    "mp4": "mpeg4",
    "mov": "mpeg4",
    "matroska": "mpeg4",
    "webm": "libvpx",
    "avi": "mpeg4",
    "mpeg": "mpeg1video",
    "mpeg1video": "mpeg1video",
    "mpegts": "mpeg2video",
    "flv": "flv",
    "asf": "wmv2",
    "ogg": "libtheora",
    "3gp": "mpeg4",
    "yuv4mpegpipe": "wrapped_avframe",
    "ivf": "libvpx",
    "mxf": "mpeg2video",
}


def film(path: Path, container: str = "mp4", codec: str = "mpeg4", frames: int = 6) -> Path:
    """A clip that becomes lighter."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            shade = (40 * number,) * 3
            out.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), shade))))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize("container", CONTAINERS)
def test_videos_under_any_name(tmp_path, container):
    codec = CONTAINERS[container]
    if codec not in av.codecs_available or container not in av.formats_available:
        pytest.skip(f"this PyAV writes no {container} with {codec}")
    for name in ("clip.jpg", "clip", "clip.m4v", "clip.mpg"):
        try:
            film(tmp_path / name, container, codec)
        except av.FFmpegError as error:
            pytest.skip(f"this PyAV writes no {container} with {codec}: {error}")
        assert is_video(tmp_path / name)
        frames = read_video(tmp_path / name)
        assert len(frames) >= 5
        assert frames[0].getpixel((9, 9))[0] < frames[-1].getpixel((9, 9))[0]
        with pytest.raises(InputError, match=f"{name}: this is a video; give a picture"):
            open_picture(tmp_path / name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "TGA"])
def test_pictures_under_any_name(tmp_path, kind):
    for name in ("picture.mp4", "picture.m4v", "picture"):
        path = tmp_path / name
        try:
            Image.radial_gradient("L").resize((64, 48)).convert("RGB").save(path, format=kind)
        except (KeyError, OSError) as error:
            pytest.skip(f"this Pillow writes no {kind}: {error}")
        assert not is_video(path)
        assert open_picture(path).size == (64, 48)
        with pytest.raises(InputError, match="this is a picture, not a video"):
            read_video(path)


@pytest.mark.parametrize(
    ("head", "video"),
    [
        (b"\0\0\0\x18ftypmp42", True),
        (b"\0\0\0\x18ftypM4V ", True),
        (b"\0\0\0\x14ftypqt  ", True),
        (b"\0\0\0\x08wide\0\0\0\0mdat", True),
        (b"\0\0\0\x18ftypheic", False),
        (b"\0\0\0\x18ftypavif", False),
        (b"RIFF\0\0\0\0AVI LIST", True),
        (b"RIFF\n\0\0\0AVI LIST", True),
        (b"RIFF\0\0\0\0WEBPVP8 ", False),
        (b"RIFF\0\0\0\0WAVEfmt ", False),
        (b"GIF89a" + b"G" * 500, False),
        ((b"G" + b"\0" * 187) * 3, True),
        ((b"\0\0\0\0G" + b"\0" * 187) * 3, True),
        (b"G", False),
        (b"", False),
    ],
)
def test_how_videos_begin(head, video):
    assert starts_a_video(head) is video


def test_look_at_a_video_that_is_named_a_picture(folder, tmp_path):
    film(tmp_path / "clip.jpg")
    result = invoke("look", tmp_path / "clip.jpg", "--model", folder, "--output", tmp_path / "o", *SMALL)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "o" / "clip.jpg.steps.webp").exists()


def test_look_at_a_picture_that_is_named_a_video(folder, picture, tmp_path):
    shutil.copy(picture, tmp_path / "p.mp4")
    result = invoke("look", tmp_path / "p.mp4", "--model", folder, "--output", tmp_path / "o", *SMALL)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "o" / "p.mp4.steps.png").exists()


@pytest.mark.parametrize("name", ["clip.m4v", "clip.mpg", "clip.png"])
def test_a_video_is_no_picture_for_ask(tmp_path, name):
    film(
        tmp_path / name, "mpeg" if name.endswith("mpg") else "mp4", "mpeg1video" if "mpg" in name else "mpeg4"
    )
    assert_error(invoke("ask", tmp_path / name, "What?"), f"{name}: this is a video; give a picture")


def test_what_is_neither_is_judged_by_its_ending(tmp_path):
    for name, said in (("x.mp4", "the video cannot be read"), ("x.png", "this is not a picture")):
        (tmp_path / name).write_bytes(b"hello")
        assert_error(invoke("look", tmp_path / name), f"{name}: {said}")


def test_the_demo_goes_by_content_too(tmp_path, picture):
    film(tmp_path / "clip.png")
    shutil.copy(picture, tmp_path / "p.mov")
    pictures, frames = read([str(tmp_path / "clip.png")])
    assert (pictures, len(frames)) == ([], 6)
    pictures, frames = read([str(tmp_path / "p.mov"), str(picture)])
    assert (len(pictures), frames) == (2, ())
    with pytest.raises(InputError, match="either images or one video"):
        read([str(tmp_path / "clip.png"), str(picture)])


def test_a_playlist_opens_nothing_else(tmp_path):
    film(tmp_path / "real.ts", "mpegts", "mpeg2video", 30)
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{tmp_path}/real.ts\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{tmp_path}/real.ts'\n",
        "ffconcat version 1.0\nfile real.ts\n",
    ):
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(InputError, match="the video cannot be read"):
            read_video(tmp_path / "list.mp4")
