"""Smaller images in place of the original ones."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from crkd_core.config import ImageConfig
from crkd_core.data.augment import ImageAugment
from crkd_core.data.encode import encode
from crkd_core.data.errors import DataError
from crkd_core.data.frames import NuScenesFrames, annotated_frame
from crkd_core.data.image_cache import ImageCache, smaller_jpeg, stored_size
from crkd_core.data.images import augmented_image
from crkd_core.data.nuscenes import load_index
from crkd_core.types import CameraImage

CONFIG = ImageConfig(size=(64, 160), resized_width=192, train_resized_width=(152, 220))


def jpeg(width: int = 400, height: int = 225) -> bytes:
    """Smooth shapes, as a camera sees them."""
    v, u = np.mgrid[:height, :width]
    picture = np.stack([128 + 100 * np.sin(u / 17), 128 + 90 * np.cos(v / 11), 128 + 80 * np.sin((u + v) / 23)], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def camera(image: bytes) -> CameraImage:
    return CameraImage(image, np.eye(3), np.eye(4), np.eye(4), 0)


@pytest.mark.parametrize(
    ("full", "largest", "stored"),
    [
        ((1600, 900), 880, (880, 495)),  # student_r50
        ((1600, 900), 440, (448, 252)),  # student_tiny: 440 would have a height of 247.5
        ((1600, 900), 1600, (1600, 900)),
        ((400, 225), 880, (400, 225)),
        ((1601, 900), 440, (1601, 900)),  # no smaller size of this aspect ratio
        ((640, 480), 441, (444, 333)),
    ],
)
def test_smaller_size_keeps_the_aspect_ratio_exactly(
    full: tuple[int, int], largest: int, stored: tuple[int, int]
) -> None:
    config = msgspec.structs.replace(CONFIG, train_resized_width=(100, largest))
    assert stored_size(full, config) == stored


@pytest.mark.parametrize("resize", ["pil_bicubic", "reduced"])
def test_smaller_image_shows_the_same(resize: str) -> None:
    config = msgspec.structs.replace(CONFIG, resize=resize)
    smaller = smaller_jpeg(jpeg(), config, name="x")
    with Image.open(io.BytesIO(smaller)) as image:
        assert image.size == (224, 126)
    for augment in (ImageAugment(0.4), ImageAugment(0.54, crop_left=0.2, flip=True, rotation_deg=3.0)):
        expected, matrix = augmented_image(camera(jpeg()), config, augment, name="x")
        scale = 224 / 400
        enlarged = ImageAugment(augment.scale / scale, augment.crop_left, augment.flip, augment.rotation_deg)
        found, smaller_matrix = augmented_image(camera(smaller), config, enlarged, name="x")
        np.testing.assert_allclose(smaller_matrix @ np.diag([scale, scale, 1.0]), matrix, atol=1e-9)
        assert np.abs(found.astype(int) - expected).mean() < 2.5


def test_an_image_that_is_small_already_is_kept_as_it_is() -> None:
    assert smaller_jpeg(jpeg(200, 100), CONFIG, name="x") == jpeg(200, 100)


def test_a_damaged_image_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"^a file: "):
        smaller_jpeg(jpeg()[:500], CONFIG, name="a file")
    with pytest.raises(DataError, match=r"^a file: truncated JPEG image"):
        smaller_jpeg(jpeg(200, 100)[:-300], CONFIG, name="a file")  # one that would be kept as it is


class TestFolder:
    @pytest.fixture
    def recipe(self) -> Any:
        from crkd_core.config import load_recipe

        tiny = load_recipe("student_tiny")
        image = msgspec.structs.replace(tiny.image, size=(32, 64), resized_width=72, train_resized_width=(64, 80))
        return msgspec.structs.replace(tiny, image=image)

    @pytest.fixture
    def cache(self, tiny_set: Any, tmp_path: Path, recipe: Any) -> ImageCache:
        return ImageCache.of(tiny_set.root, tmp_path / "prepared", recipe.image)

    def test_an_image_is_done_until_its_source_is_newer(self, cache: ImageCache, tiny_set: Any) -> None:
        source = tiny_set.files("CAM_FRONT", key=True)[0]
        assert not cache.is_done(source)
        size = cache.add(source)
        assert cache.is_done(source)
        assert cache.path(source).stat().st_size == size
        assert [path.name for path in cache.folder.rglob("*.*")] == [source.name]
        later = cache.path(source).stat().st_mtime + 10
        os.utime(source, (later, later))
        assert not cache.is_done(source)

    def test_network_input_has_the_same_geometry(self, cache: ImageCache, tiny_set: Any, recipe: Any) -> None:
        index = load_index(tiny_set.root, tiny_set.version)
        sample = index.samples[0]
        for file in tiny_set.files("CAM_FRONT", key=True):
            cache.add(file)
        original = annotated_frame(index, sample).frame
        smaller = NuScenesFrames(index, index.samples, images=cache)[0].frame
        with Image.open(io.BytesIO(smaller.cameras["CAM_FRONT"].image)) as image:
            assert image.size == (80, 45)
        for seed in (None, 1, 2):
            expected, found = (
                encode(frame, recipe, rng=None if seed is None else np.random.default_rng(seed))
                for frame in (original, smaller)
            )
            pixel_from_camera = [(i.image_augment @ i.intrinsics).numpy() for i in (expected, found)]
            np.testing.assert_allclose(pixel_from_camera[1], pixel_from_camera[0], rtol=1e-5, atol=1e-4)
            assert (found.images - expected.images).abs().mean() < 0.05

    def test_tables_that_do_not_say_the_size_are_refused(self, cache: ImageCache) -> None:
        with pytest.raises(DataError, match=r"sample_data\.json: width or height of a camera image is 0"):
            cache.scale((0, 90))

    def test_an_image_that_was_not_made_is_named_with_the_fix(self, cache: ImageCache, tiny_set: Any) -> None:
        index = load_index(tiny_set.root, tiny_set.version)
        with pytest.raises(DataError, match=r"CAM_FRONT_.*\.jpg: cannot be read: No such file.*; run training/prepare"):
            annotated_frame(index, index.samples[0], images=cache)
