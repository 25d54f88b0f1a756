"""Any picture into a clean JPEG; hostile ones into one sentence, in bounded time."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.core.cases import ImageCase
from client.core.images import clean_jpeg, fitted, open_picture, variant
from client.core.pictures import synthetic
from client.errors import UsageError


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def corners(width: int = 120, height: int = 80) -> Image.Image:
    """Red, green, blue and white quarters: tells every turn."""
    picture = Image.new("RGB", (width, height), "white")
    picture.paste((220, 20, 20), (0, 0, width // 2, height // 2))
    picture.paste((20, 200, 20), (width // 2, 0, width, height // 2))
    picture.paste((20, 20, 220), (0, height // 2, width // 2, height))
    return picture


def decoded(jpeg: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    return np.asarray(picture.convert("RGB"), dtype=np.int16)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_that_fits_is_passed_byte_for_byte(options: dict[str, object]) -> None:
    data = saved(corners(), "JPEG", **options)
    assert clean_jpeg(data, 1024) == (data, 120, 80)
    gray = saved(corners().convert("L"), "JPEG")
    assert clean_jpeg(gray, 120)[0] is gray


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_is_baked_in(turn: int) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[turn]
    stored = corners() if back is None else corners().transpose(back)
    exif = Image.Exif()
    exif[0x0112] = turn
    jpeg, width, height = clean_jpeg(saved(stored, "JPEG", quality=95, exif=exif), 1024)
    assert (width, height) == (120, 80)
    assert np.abs(decoded(jpeg)[::9, ::9] - np.asarray(corners(), dtype=np.int16)[::9, ::9]).max() < 40
    if turn > 1:
        assert Image.open(io.BytesIO(jpeg)).getexif().get(0x0112) is None


def test_every_kind_of_picture_becomes_rgb() -> None:
    picture = corners()
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.new("L", picture.size, 255))
    palette = picture.quantize(8)
    wanted = np.asarray(picture, dtype=np.int16)[10::20, 10::20]
    for name, data in {
        "png": saved(picture, "PNG"),
        "webp": saved(picture, "WEBP", lossless=True),
        "bmp": saved(picture, "BMP"),
        "tiff": saved(picture, "TIFF"),
        "gif": saved(palette, "GIF"),
        "palette": saved(palette, "PNG"),
        "rgba": saved(alpha, "PNG"),
        "cmyk": saved(picture.convert("CMYK"), "JPEG", quality=98),
        "cmyk tiff": saved(picture.convert("CMYK"), "TIFF"),
    }.items():
        jpeg, width, height = clean_jpeg(data, 1024)
        assert (width, height) == picture.size
        assert np.abs(decoded(jpeg)[10::20, 10::20] - wanted).max() < 30, name
        assert Image.open(io.BytesIO(jpeg)).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_falls_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (32, 32), (10, 10, 10, 0))
    data = saved(clear.convert(mode), "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert decoded(clean_jpeg(data, 64)[0]).min() > 245


def test_sixteen_bits_keep_their_brightness() -> None:
    steps = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(1, 64).repeat(16, axis=0)
    gray = decoded(clean_jpeg(saved(Image.fromarray(steps), "PNG"), 64)[0])[8, :, 0]
    assert np.abs(gray - (steps[0] >> 8).astype(np.int16)).max() < 6
    wide = Image.fromarray(steps.astype(np.int32))
    assert np.abs(decoded(clean_jpeg(saved(wide, "TIFF"), 64)[0])[8, :, 0] - gray).max() < 6
    floats = (
        np.where(np.arange(64) % 9 == 0, np.nan, steps[0] / 65535).astype(np.float32).reshape(1, 64).repeat(8, axis=0)
    )
    assert decoded(clean_jpeg(saved(Image.fromarray(floats), "TIFF"), 64)[0]).max() > 200


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    jpeg = clean_jpeg(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), 64)[0]
    assert decoded(jpeg)[20, 20, 0] > 200


@settings(max_examples=80)
@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 2000))
def test_fitted_keeps_the_ratio_and_never_enlarges(width: int, height: int, side: int) -> None:
    w, h = fitted(width, height, side)
    assert 1 <= w <= width
    assert 1 <= h <= height
    assert max(w, h) <= side
    if max(width, height) > side:
        assert max(w, h) == side
        assert abs(w / width - h / height) <= 1 / min(width, height)


def test_a_large_photo_is_made_small() -> None:
    data = saved(corners(4000, 3000), "JPEG")
    jpeg, width, height = clean_jpeg(data, 1024)
    assert (width, height) == (1024, 768)
    assert decoded(jpeg).shape == (768, 1024, 3)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + png_chunk(b"IEND", b"")


def hostile() -> dict[str, tuple[bytes, str]]:
    good = saved(corners(), "JPEG")
    zeros = png_chunk(b"IDAT", zlib.compress(bytes(3 * 20000 * 10 + 10)))
    scan = good[good.index(b"\xff\xda") :]
    comments = b"".join(b"\xff\xfe\x00\x02" for _ in range(200_000))
    return {
        "bomb": (png(20000, 20000, zeros), "20000x20000 pixels|180 million"),
        "small bomb": (png(9500, 9500, zeros), "9500x9500 pixels"),
        "truncated": (good[: len(good) // 2], "cannot be decoded"),
        "truncated png": (saved(corners(), "PNG")[:-40], "cannot be decoded"),
        "lying size": (png(64, 64, png_chunk(b"IDAT", zlib.compress(b"short"))), "cannot be decoded"),
        "text": (b"<html>not a picture</html>", "no image"),
        "empty": (b"", "empty"),
        "jpeg of nothing": (b"\xff\xd8\xff\xe0" + bytes(100), "no image|cannot be decoded"),
        "10^5 chunks": (png(8, 8, png_chunk(b"prVt", b"") * 150_000), "pieces|cannot be decoded"),
        "10^5 segments": (good[:2] + comments + good[2:], "pieces|cannot be decoded"),
        "scans": (good[:-2] + scan[:-2] * 150, "scans"),
        "text bomb": (png(8, 8, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))), "cannot be decoded|no image"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "outside program"),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_picture_is_one_sentence_that_names_it(name: str) -> None:
    data, fact = hostile()[name]
    begun = time.process_time()
    with pytest.raises(UsageError, match=fact) as raised:
        clean_jpeg(data, 1024, "evil.png")
    assert "evil.png" in raised.value.fact
    assert time.process_time() - begun < 5.0


def test_a_huge_or_broken_exif_block_is_no_trouble() -> None:
    good = saved(corners(), "JPEG")
    for block in (
        b"Exif\0\0" + bytes(65000),
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 30000,
        b"Exif\0\0MM" + b"\xff" * 60000,
    ):
        segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        jpeg, width, height = clean_jpeg(good[:2] + segment * 20 + good[2:], 1024)
        assert (width, height) == (120, 80)
        assert decoded(jpeg).shape == (80, 120, 3)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_damaged_bytes_give_a_picture_or_a_usage_error(chance: random.Random, kind: str) -> None:
    data = bytearray(saved(corners(48, 32), kind))
    for _ in range(chance.randint(1, 12)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    try:
        jpeg, width, height = clean_jpeg(bytes(data), 64, "damaged")
    except UsageError as error:
        said = error.fact
    else:
        said = "damaged"
        assert Image.open(io.BytesIO(jpeg)).size == (width, height)
    assert said.startswith("damaged")


def test_opening_decodes_no_pixel() -> None:
    assert open_picture(saved(corners(), "JPEG")[:660]).size == (120, 80)


def test_variants_differ_in_pixels_and_in_nothing_that_a_person_sees() -> None:
    case = synthetic(0, 1, 200, 150)
    flat = ImageCase(
        image_id="flat", jpeg=saved(Image.new("RGB", (64, 48), "white"), "JPEG"), width=64, height=48, source="file"
    )
    for original in (case, flat):
        made = [variant(original, number) for number in range(1, 12)]
        pictures = {decoded(v.jpeg).tobytes() for v in made} | {decoded(original.jpeg).tobytes()}
        assert len(pictures) == 12
        for v in made:
            assert (v.boxes, v.width, v.height, v.source) == (
                original.boxes,
                original.width,
                original.height,
                "variant",
            )
            assert np.abs(decoded(v.jpeg) - decoded(original.jpeg)).mean() < 4
        assert len({v.image_id for v in made}) == 11
    assert variant(case, 3) == variant(case, 3)
