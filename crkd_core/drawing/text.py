"""Smooth text: strings rendered once by Pillow's built-in scalable font, then blended as masks."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from crkd_core.drawing.style import TEXT, Color, Image

Anchor = Literal["left", "center", "right"]


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def _mask(text: str, size: int) -> NDArray[np.float32]:
    """(h, w) opacity of a string; the same height for all strings of a size, so that lines align."""
    font = _font(size)
    width = max(1, int(np.ceil(font.getlength(text))))
    picture = PillowImage.new("L", (width + 2, size + size // 3))
    ImageDraw.Draw(picture).text((1, 0), text, fill=255, font=font)
    return np.asarray(picture, dtype=np.float32)[..., None] / 255


def text_width(text: str, size: int) -> int:
    """Width of a string, pixels."""
    return int(_mask(text, size).shape[1])


def draw_text(
    image: Image, text: str, position: tuple[int, int], size: int, *, color: Color = TEXT, anchor: Anchor = "left"
) -> None:
    """Write a string into a picture, in place; what lies outside is cut off.

    Args:
        image: (H, W, 3).
        text: one line.
        position: pixel (x, y) of the top of the string at its ``anchor``.
        size: font size, pixels.
        color: RGB.
        anchor: what of the string stands at x.
    """
    mask = _mask(text, size)
    height, width = mask.shape[:2]
    x = position[0] - {"left": 0, "center": width // 2, "right": width}[anchor]
    y = position[1]
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, image.shape[1]), min(y + height, image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    opacity = mask[y0 - y : y1 - y, x0 - x : x1 - x]
    patch = image[y0:y1, x0:x1]
    patch[:] = (patch * (1 - opacity) + np.array(color, dtype=np.float32) * opacity).astype(np.uint8)


def draw_label(image: Image, text: str, position: tuple[int, int], size: int, *, color: Color = TEXT) -> None:
    """Write a string on a dark, half-transparent plate whose top left corner is ``position``, in place."""
    x, y = max(position[0], 0), max(position[1], 0)
    plate = image[y : y + size + size // 3, x : x + text_width(text, size) + 4]
    plate[:] = plate // 3
    draw_text(image, text, (x + 2, y), size, color=color)
