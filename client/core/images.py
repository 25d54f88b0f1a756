"""Any picture into a clean JPEG, and variants of a JPEG that no cache of a server can answer.

What comes in may be hostile. Bounds: pixels are checked before they are decoded, the number of chunks that a parser may walk is
counted, scans of a progressive JPEG are counted, and formats that start another program are refused.
"""

from __future__ import annotations

import hashlib
import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from client.core.cases import ImageCase
from client.errors import UsageError

MAX_PIXELS = 89_000_000
"""More than any phone or camera in common use writes, and 270 MB once decoded."""
MAX_BYTES = 64 * 1024 * 1024
MAX_READS = 100_000
"""Each chunk of a file costs its parser at least one read."""
MAX_SCANS = 100
"""A progressive JPEG of a camera has about ten; each costs a pass over the whole picture."""
QUALITY = 90
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RUNS_A_PROGRAM = ("EPS",)
# Our own limit is lower than the one at which Pillow warns, and it is an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# A damaged EXIF block is passed over; nobody needs a line of source code on the terminal for it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class _TooManyReads(OSError):
    pass


class _CountedBytes(io.BytesIO):
    """A file in memory that ends a parser's walk over endless tiny chunks."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise _TooManyReads(f"it is cut into more than {MAX_READS:,} pieces")
        return super().read(size)


def open_picture(data: bytes, name: str = "the picture") -> Image.Image:
    """The header of a picture, read and checked; no pixel is decoded yet. UsageError names the file and the fact."""
    if not data:
        raise UsageError(f"{name} is empty (0 bytes).", "Replace it or take it out.")
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name} has more than {MAX_BYTES:,} bytes: no more are read.", "Save it smaller.")
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise UsageError(
            f"{name} is a JPEG of more than {MAX_SCANS} scans, made to waste time.", "Save it again as JPEG."
        )
    try:
        picture = Image.open(_CountedBytes(data))
    except Image.DecompressionBombError:
        raise _too_large(name, "about 180 million or more") from None
    except UnidentifiedImageError:
        raise UsageError(
            f"{name} is no image in any format that can be read (its first bytes: {data[:8]!r}).",
            "Take it out of the folder, or point --images at the pictures alone.",
        ) from None
    except Exception as error:  # whatever a parser says about hostile bytes, it is about this file
        raise _unreadable(name, error) from error
    if picture.format in _RUNS_A_PROGRAM:
        raise UsageError(
            f"{name} is {picture.format}, which is drawn by an outside program.", "Save it as JPEG or PNG."
        )
    if picture.width * picture.height > MAX_PIXELS:
        raise _too_large(name, f"{picture.width}x{picture.height}")
    return picture


def _too_large(name: str, what: str) -> UsageError:
    return UsageError(f"{name} says that it has {what} pixels; at most {MAX_PIXELS:,} are decoded.", "Save it smaller.")


def _unreadable(name: str, error: Exception) -> UsageError:
    why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return UsageError(f"{name} cannot be decoded: {why}.", "It may be truncated or damaged: replace it or take it out.")


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation that is still to be applied, 1 to 8; 1 when there is none or it cannot be read."""
    if picture.format == "TIFF":
        return 1  # Pillow's TIFF reader turns the pixels by itself, and tells the turned size from the start
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if value in _TURNS else 1


def displayed_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height after the EXIF orientation."""
    turned = orientation(picture) >= 5
    return (picture.height, picture.width) if turned else (picture.width, picture.height)


def fitted(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The size within `max_side`, aspect ratio kept, never enlarged, at least one pixel."""
    longest = max(width, height)
    if longest <= max_side:
        return width, height
    return max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))


def clean_jpeg(data: bytes, max_side: int, name: str = "the picture") -> tuple[bytes, int, int]:
    """A JPEG as a server wants it, its width and its height: RGB or gray, upright, within `max_side`, no metadata.

    A JPEG that is all this already is passed on byte for byte (once it was seen to decode). Transparency falls on white; of several
    frames the first counts. Embedded colour profiles are not applied. The bytes of a re-encoded picture depend on the libjpeg version.
    """
    picture = open_picture(data, name)
    turn = orientation(picture)
    width, height = picture.size
    stays = picture.format == "JPEG" and picture.mode in ("RGB", "L") and turn == 1 and max(width, height) <= max_side
    target = fitted(width, height, max_side)
    try:
        # libjpeg decodes a large photo at a half, a quarter or an eighth of its size, which saves time and memory.
        picture.draft(None, (2 * target[0], 2 * target[1]))
        picture.load()
        if stays:
            return data, width, height
        rgb = _as_rgb(picture)
        if rgb.size != target:
            rgb = rgb.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)
        if turn in _TURNS:
            rgb = rgb.transpose(_TURNS[turn])
        return encode_jpeg(rgb), rgb.width, rgb.height
    except Exception as error:  # see open_picture
        raise _unreadable(name, error) from error


def encode_jpeg(picture: Image.Image, quality: int = QUALITY) -> bytes:
    """JPEG bytes without metadata."""
    out = io.BytesIO()
    picture.info.clear()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Eight-bit RGB. 16-bit samples keep their high byte; wider integers and floats are stretched over their own range."""
    if picture.mode.startswith("I;16"):
        samples = np.asarray(picture).astype(np.uint16)
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        return _stretched(np.asarray(picture, dtype=np.float64))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return picture.convert("RGB")


def _stretched(samples: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Image.Image:
    finite = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1 and not np.all(finite == np.floor(finite)):
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif low >= 0 and 255 < high <= 65535:
        low, high = 0.0, 65535.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(((finite - low) * scale).round().astype(np.uint8)).convert("RGB")


def variant(case: ImageCase, number: int) -> ImageCase:
    """The same picture with other pixels: a faint seeded noise (at most 3 of 255), so that no cache knows it. Boxes stay as they are.

    vLLM looks pictures up by a hash of their decoded pixels; a different file with the same pixels would be answered from its caches.
    """
    seed = int.from_bytes(hashlib.sha256(case.jpeg).digest()[:8], "big")
    source = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
    picture = Image.open(io.BytesIO(case.jpeg)).convert("RGB")
    # One draw for a patch of 8x8 pixels survives the encoder where single pixels would be rounded away.
    rows, columns = (picture.height + 7) // 8, (picture.width + 7) // 8
    patches = np.frombuffer(source.bytes(rows * columns), dtype=np.uint8).reshape(rows, columns) % 7
    noise = patches.repeat(8, axis=0)[: picture.height].repeat(8, axis=1)[:, : picture.width].astype(np.int16) - 3
    pixels = np.asarray(picture, dtype=np.int16) + noise[:, :, None]
    jpeg = encode_jpeg(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), quality=92)
    return ImageCase(
        image_id=f"{case.image_id}~{number}",
        jpeg=jpeg,
        width=case.width,
        height=case.height,
        boxes=case.boxes,
        source="variant",
    )
