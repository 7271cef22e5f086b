"""Pictures of every kind open as upright 8-bit RGB; broken ones say what is wrong; files appear whole."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from illava.io.pictures import InputError, check_writable, demo_names, open_picture, save_png

CORNERS = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]]


def four_corners(edge: int = 16) -> Image.Image:
    """Red, green / blue, white."""
    return Image.fromarray(np.array(CORNERS, np.uint8)).resize((2 * edge, edge), Image.Resampling.NEAREST)


def corner_colours(picture: Image.Image) -> list[tuple[int, ...]]:
    right, bottom = picture.width - 2, picture.height - 2
    return [picture.getpixel(place) for place in ((1, 1), (right, 1), (1, bottom), (right, bottom))]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    # How each orientation is stored: undoing it must give the upright picture.
    store = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = four_corners()
    stored = upright.transpose(store[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    opened = open_picture(tmp_path / "turned.png")
    assert opened.size == (32, 16)
    assert corner_colours(opened) == [colour for row in CORNERS for colour in row]


def test_broken_exif_is_ignored(tmp_path):
    four_corners().save(tmp_path / "odd.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_picture(tmp_path / "odd.png").size == (32, 16)


def test_palette(tmp_path):
    four_corners().quantize(4).save(tmp_path / "p.png")
    assert corner_colours(open_picture(tmp_path / "p.png")) == [colour for row in CORNERS for colour in row]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_on_white(tmp_path, mode):
    if mode == "P":
        picture = Image.new("P", (8, 8), 1)
        picture.putpalette([0, 0, 0, 9, 9, 9])
        picture.save(tmp_path / "t.png", transparency=1)
    else:
        Image.new(mode, (8, 8), (0, 0, 0, 0) if mode == "RGBA" else (0, 0)).save(tmp_path / "t.png")
    assert open_picture(tmp_path / "t.png").getpixel((4, 4)) == (255, 255, 255)


def test_half_transparent(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(tmp_path / "t.png")
    assert open_picture(tmp_path / "t.png").getpixel((4, 4)) == pytest.approx((255, 127, 127), abs=1)


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    red, green, blue = open_picture(tmp_path / "c.jpg").getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(("name", "mode"), [("g.png", "I;16"), ("g.tif", "I;16"), ("b.tif", "I;16B")])
def test_16_bit_greyscale_is_scaled(tmp_path, name, mode):
    deep = Image.new("I", (4, 1))
    for x, value in enumerate((0, 257 * 64, 257 * 128, 65535)):
        deep.putpixel((x, 0), value)
    deep.convert(mode).save(tmp_path / name)
    opened = open_picture(tmp_path / name)
    assert [opened.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 64, 128, 255)]


@pytest.mark.parametrize(("white", "given"), [(1.0, 0.5), (255.0, 127.5), (65535.0, 32767.5)])
def test_float_pictures(tmp_path, white, given):
    picture = Image.new("F", (2, 1), given)
    picture.putpixel((0, 0), white)
    picture.save(tmp_path / "f.tif")
    opened = open_picture(tmp_path / "f.tif")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0))[0] == pytest.approx(128, abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr"])
def test_other_modes(tmp_path, mode):
    # Pillow 12.3 cannot read the YCbCr TIFF files that it writes.
    path = tmp_path / ("x.jpg" if mode == "YCbCr" else "x.tif")
    Image.new("RGB", (16, 16), "white").convert(mode).save(path)
    assert open_picture(path).getpixel((8, 8)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_first_frame_of_animations(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert open_picture(tmp_path / name).getpixel((4, 4)) == (255, 0, 0)


def test_demo_pictures_ship():
    sizes = {name: open_picture(name).size for name in demo_names()}
    drawn = dict.fromkeys(("demo/number.png", "demo/word.png"), (192, 192))
    assert sizes == {"demo/hopper.jpg": (512, 600), **drawn}


def test_bomb_guard(tmp_path, monkeypatch):
    four_corners().save(tmp_path / "big.png")
    # Above the limit Pillow only warns, above twice the limit it refuses: both must be refused.
    for limit in (32 * 16 - 1, 32 * 16 // 2 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match=f"more than {limit} pixels"):
            open_picture(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 16)
    open_picture(tmp_path / "big.png")


def test_every_truncation_is_an_input_error(tmp_path):
    four_corners().save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    for length in range(1, len(whole) - 2, 40):
        (tmp_path / "cut.jpg").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.jpg"):
            open_picture(tmp_path / "cut.jpg")


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not a regular file"):
        open_picture(tmp_path / "pipe.png")


def test_save_is_atomic(tmp_path, monkeypatch):
    target = tmp_path / "out.png"
    four_corners().save(target)
    before = target.read_bytes()

    def fail(self, path, **options):
        path.write_bytes(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(InputError, match="No space left"):
        save_png(four_corners(), target)
    assert target.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


def test_save_follows_links_and_the_umask(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    check_writable(tmp_path / "link.png")
    save_png(four_corners(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "real.png").stat().st_mode & 0o777 == 0o666 & ~umask
