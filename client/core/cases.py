"""The values that carry pictures: what a picture is, and one request made of it."""

from __future__ import annotations

import hashlib

import msgspec

from client.core.records import ImageFact

Box = tuple[float, float, float, float]
"""(x_min, y_min, x_max, y_max) in 0..1 of the picture as it is sent."""


class ImageCase(msgspec.Struct, frozen=True, kw_only=True):
    """One picture ready to be sent. `boxes` None: the truth is not known; an empty tuple: known to hold no table."""

    image_id: str
    jpeg: bytes
    width: int
    height: int
    boxes: tuple[Box, ...] | None = None
    source: str = "synthetic"
    """synthetic, file, or variant (a file or a manifest entry with other pixels)."""

    def fact(self) -> ImageFact:
        """What is written down of this picture in the run directory."""
        return ImageFact(
            image_id=self.image_id,
            width=self.width,
            height=self.height,
            sent_bytes=len(self.jpeg),
            sha256=hashlib.sha256(self.jpeg).hexdigest(),
            source=self.source,
            boxes=self.boxes,
        )


class PreparedRequest(msgspec.Struct, frozen=True):
    """A request body built ahead of the clock. `image` is the number of the picture within its workload."""

    image_id: str
    image: int
    body: bytes
