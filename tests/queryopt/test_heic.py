"""HEIC pictures, made with pillow-heif."""

import io
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from queryopt.errors import ImageError
from queryopt.images import NO_HEIF, failure_lines, find_images, open_rgb


def heic(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    """Nearly without loss. An orientation turns the coded picture (irot, imir), as cameras have it."""
    file = pillow_heif.HeifFile()
    file.add_from_pillow(image)
    data = io.BytesIO()
    file.save(data, quality=-1, chroma=444, exif=exif.tobytes() if exif else None)
    return data.getvalue()


def corners() -> Image.Image:
    """40 x 24, each corner of another colour."""
    image = Image.new("RGB", (40, 24), "white")
    for at, colour in {(0, 0): "red", (32, 0): "blue", (0, 16): "black"}.items():
        image.paste(colour, (*at, at[0] + 8, at[1] + 8))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_and_not_turned_twice(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    png = io.BytesIO()
    corners().save(png, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(png)).convert("RGB")
    found = open_rgb(io.BytesIO(heic(corners(), exif)))
    assert (found.mode, found.size) == ("RGB", upright.size)
    assert np.abs(np.asarray(found, np.int16) - np.asarray(upright, np.int16)).max() <= 3


def test_transparency_lies_on_white_and_10_bits_are_scaled() -> None:
    clear = open_rgb(io.BytesIO(heic(Image.new("RGBA", (32, 32), (255, 0, 0, 0)))))
    assert clear.getpixel((16, 16)) == (255, 255, 255)
    ramp = (np.arange(64, dtype=np.uint16)[None] * 1024).repeat(64, 0)
    grey = np.asarray(open_rgb(io.BytesIO(heic(Image.fromarray(ramp)))))[:, :, 0]
    assert np.abs(grey[5].astype(int) - ramp[5] / 257).max() <= 3


def test_found_by_any_spelling_of_its_ending(tmp_path: Path) -> None:
    for name in ("IMG_1.HEIC", "b.heif", "c.hif", "d.jpg"):
        (tmp_path / name).write_bytes(heic(corners()))
    found = find_images(tmp_path)
    assert len(found) == 4
    assert all(open_rgb(tmp_path / name.decode()).size == (40, 24) for name in found)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_off(share: float) -> None:
    data = heic(corners())
    with pytest.raises(ImageError, match=r"truncated|not a picture that can be read"):
        open_rgb(io.BytesIO(data[: int(len(data) * share)]))


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ImageError, match="40 x 24 is more than 100 pixels"):
        open_rgb(io.BytesIO(heic(corners())), max_pixels=100)


def test_without_the_decoder_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(corners())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError) as caught:
        open_rgb(io.BytesIO(data))
    assert str(caught.value) == NO_HEIF
    assert "pip install '.[heic]'" in NO_HEIF
    failures = {f"{number}.heic": NO_HEIF for number in range(7)} | {"b.jpg": "zero bytes"}
    assert failure_lines(failures, ": left out") == [
        "b.jpg: zero bytes: left out",
        f"7 pictures of the kind {NO_HEIF}: left out: 0.heic, 1.heic, 2.heic, 3.heic, 4.heic and 2 more",
    ]
