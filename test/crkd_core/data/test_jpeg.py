"""Damaged JPEG images are told from whole ones by their bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from crkd_core.data.jpeg import jpeg_damage, jpeg_size
from crkd_core.data.simulated import FrameKey, simulated_frame

ENCODINGS: list[dict[str, Any]] = [
    {},
    {"quality": 10},
    {"quality": 100, "subsampling": 0},
    {"optimize": True},
    {"optimize": True, "quality": 20},
    {"progressive": True},
    {"restart_marker_blocks": 1},
    {"restart_marker_rows": 1},
]


def picture(height: int = 270, width: int = 480) -> np.ndarray:
    """Shapes and noise, black at the top and white at the bottom."""
    v, u = np.mgrid[:height, :width]
    waves = 128 + 100 * np.sin(u / 17) * np.cos(v / 11)
    noisy = waves[..., None] + np.random.default_rng(0).normal(0, 6, (height, width, 3))
    noisy[: height // 4], noisy[-height // 4 :] = 0, 255
    return noisy.clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_hole(content: bytes, place: int, hole: bytes) -> bytes:
    return content[:place] + hole + content[place + len(hole) :]


@pytest.mark.parametrize("options", ENCODINGS, ids=str)
def test_whole_images_pass_however_encoded(options: dict[str, Any]) -> None:
    for image in (picture(), picture()[..., 0], *(np.full((90, 160, 3), grey, np.uint8) for grey in (0, 7, 255))):
        content = jpeg(image, **options)
        assert jpeg_damage(content) is None
        assert jpeg_damage(content + bytes(100)) is None  # padded, as some cameras do


def test_a_preview_in_the_header_is_not_taken_for_the_image() -> None:
    content, preview = jpeg(picture()), jpeg(picture(80, 120))
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    assert jpeg_damage(content[:2] + segment + content[2:]) is None


@pytest.mark.parametrize("options", ENCODINGS, ids=str)
def test_the_size_is_read_however_encoded(options: dict[str, Any]) -> None:
    assert jpeg_size(jpeg(picture(90, 160), **options)) == (160, 90)


def test_the_size_of_a_preview_is_not_taken_for_that_of_the_image() -> None:
    content, preview = jpeg(picture()), jpeg(picture(80, 120))
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    assert jpeg_size(content[:2] + segment + content[2:]) == (480, 270)


def test_what_is_no_jpeg_image_has_no_size_here() -> None:
    assert jpeg_size(cv2.imencode(".png", picture())[1].tobytes()) is None
    content = jpeg(picture())
    assert [jpeg_size(content[:length]) for length in (0, 1, 2, 30)] == [None] * 4


def test_other_formats_pass() -> None:
    assert jpeg_damage(cv2.imencode(".png", picture())[1].tobytes()) is None
    assert jpeg_damage(b"") is None


@pytest.mark.parametrize("length", [2, 30, 300, 5000])
def test_a_cut_image_is_noticed_wherever_it_ends(length: int) -> None:
    assert "no end marker" in (jpeg_damage(jpeg(picture())[:length]) or "")


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 0, "quality": 95}], ids=str)
def test_a_hole_of_zeros_is_noticed_with_its_place(options: dict[str, Any]) -> None:
    content = jpeg(picture(), **options)
    for place in (2000, len(content) // 2, len(content) - 700):
        found = jpeg_damage(with_hole(content, place, bytes(512)))
        assert found is not None
        assert found.startswith(f"damaged JPEG image ({len(content)} bytes, ")
        byte = int(found.split(" byte ")[1].split(")")[0].split()[0])
        assert place - 8 <= byte <= place + 512


def test_overwritten_image_data_is_noticed() -> None:
    content, draw = jpeg(picture(), quality=95), np.random.default_rng(1)
    found = [jpeg_damage(with_hole(content, int(place), draw.bytes(4096))) for place in draw.integers(1000, 20_000, 40)]
    assert sum(reason is not None for reason in found) >= 38


def test_simulated_images_pass() -> None:
    cameras = simulated_frame(FrameKey(3, 0, 1), image_width=160, radar_sweeps=0).frame.cameras
    assert len(cameras) == 6
    assert [jpeg_damage(bytes(camera.image)) for camera in cameras.values()] == [None] * 6


@pytest.mark.nuscenes
def test_real_images_pass(nuscenes_root: Path) -> None:
    contents = [path.read_bytes() for path in sorted(nuscenes_root.glob("samples/CAM_*/*.jpg"))]
    assert len(contents) >= 100
    assert [found for found in map(jpeg_damage, contents) if found] == []
