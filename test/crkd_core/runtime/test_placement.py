"""What the GPU makes of an image is what the CPU makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crkd_core.config import ImageConfig
from crkd_core.data.images import network_image
from crkd_core.ops.image_prepare import prepare_images
from crkd_core.ops.resampling import GAIN
from crkd_core.runtime.placement import placement
from crkd_core.types import CameraImage

RIGS = {
    "nuScenes, a third": ((300, 533), (85, 235), 256),
    "odd sizes": ((101, 203), (32, 96), 131),
    "enlarged": ((64, 80), (96, 128), 150),
    "wider than the image": ((90, 100), (64, 160), 128),
    "higher than the image": ((60, 200), (96, 96), 96),
    "as it is": ((64, 96), (64, 96), 96),
}


def picture(shape: tuple[int, int]) -> CameraImage:
    rng = np.random.default_rng(shape[0])
    smooth = 127 + 120 * np.sin(np.arange(shape[0])[:, None, None] / 9 + np.arange(shape[1])[None, :, None] / 7)
    image = np.clip(smooth + rng.normal(0, 40, (*shape, 3)), 0, 255).astype(np.uint8)
    return CameraImage(image, np.eye(3), np.eye(4), np.eye(4), 0)


def on_tables(camera: CameraImage, config: ImageConfig) -> tuple[torch.Tensor, np.ndarray]:
    image = camera.image
    assert isinstance(image, np.ndarray)
    size = image.shape[1], image.shape[0]
    place = placement(size, size, config)
    strip = torch.from_numpy(image[place.first_row : place.end_row].copy()).flatten()[None]
    taps = [torch.from_numpy(a)[None] for a in (place.rows.start, place.rows.weight, place.columns.start)]
    across = torch.from_numpy(place.columns.weight.T.copy())[None]
    pitch = torch.tensor([3 * image.shape[1]], dtype=torch.int32)
    return prepare_images(strip, pitch, *taps, across, torch.float32)[0], place.matrix


@pytest.mark.parametrize("rig", RIGS)
@pytest.mark.parametrize("resize", ["pil_bicubic", "reduced"])
def test_tables_give_the_network_image(rig: str, resize: str) -> None:
    shape, size, width = RIGS[rig]
    config = ImageConfig(size=size, resized_width=width, train_resized_width=(width, width), resize=resize)  # type: ignore[arg-type]
    expected, matrix = network_image(picture(shape), config, name="CAM")
    found, found_matrix = on_tables(picture(shape), config)
    np.testing.assert_allclose(found_matrix, matrix, atol=1e-12)
    levels = (found.numpy() - expected) / np.array(GAIN)[:, None, None]
    if resize == "pil_bicubic":
        assert np.abs(levels).max() < 1e-2  # the same grey level everywhere
    else:
        assert np.abs(levels).mean() <= 0.5
        assert np.abs(levels).max() <= 2.01


def test_only_rows_that_reach_the_crop_are_read() -> None:
    config = ImageConfig(size=(256, 704), resized_width=768, train_resized_width=(768, 768))
    place = placement((1600, 900), (1600, 900), config)
    assert (place.first_row, place.end_row) == (364, 900)
