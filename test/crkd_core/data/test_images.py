"""Camera images as the network reads them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from crkd_core.config import ImageConfig
from crkd_core.data.augment import ImageAugment
from crkd_core.data.errors import DataError
from crkd_core.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    augmented_image,
    decoded,
    image_size,
    network_image,
    network_pixels,
    normalized,
    normalized_pixels,
    undistorted,
)
from crkd_core.types import CameraImage

CONFIG = ImageConfig(size=(64, 160), resized_width=176, train_resized_width=(140, 220))
K = np.array([[300.0, 0, 200], [0, 300, 112], [0, 0, 1]])


def camera(image: Any, distortion: np.ndarray | None = None) -> CameraImage:
    return CameraImage(image, K, np.eye(4), np.eye(4), 0, distortion)


def picture(height: int = 225, width: int = 400, seed: int = 0) -> np.ndarray:
    """Smooth colours with an edge, so that resizing has something to get wrong."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (9, 16, 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    image[height // 2 :, : width // 3] //= 4
    return image


def jpeg(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())


@pytest.mark.golden
class TestGolden:
    def cases(self, golden: Any) -> dict[str, ImageAugment]:
        cases = {"test": ImageAugment(golden.meta["test_resize"])}
        for i, case in enumerate(golden.meta["train_cases"]):
            excess = case["resize_dims"][0] - golden.meta["final_dim"][1]
            # The middle of the fractions that give this crop.
            left = (case["crop"][0] + 0.5) / excess
            cases[f"train{i}"] = ImageAugment(case["resize"], left, case["flip"], case["rotate_deg"])
        return cases

    @pytest.mark.parametrize("name", ["test", "train0", "train1", "train2"])
    def test_image_and_matrix(self, load_golden: Callable[[str], Any], name: str):
        golden = load_golden("image_aug")
        config = msgspec.structs.replace(CONFIG, size=tuple(golden.meta["final_dim"]))
        full = camera(golden["in.image"].numpy())
        image, matrix = augmented_image(full, config, self.cases(golden)[name], name="x")
        np.testing.assert_array_equal(image, golden[f"out.{name}.image"])
        theirs = golden[f"out.{name}.matrix"].numpy()
        np.testing.assert_allclose(matrix[:2, :2], theirs[:2, :2], atol=1e-6)
        np.testing.assert_allclose(matrix[:2, 2], theirs[:2, 3], atol=1e-5)
        np.testing.assert_array_equal(matrix[2], [0, 0, 1])

    def test_normalisation(self, load_golden: Callable[[str], Any]):
        golden = load_golden("image_aug")
        np.testing.assert_allclose(
            normalized(golden["out.test.image"].numpy()), golden["out.test.normalized"], atol=1e-6
        )


class TestGeometry:
    @pytest.mark.parametrize(
        "augment",
        [
            ImageAugment(0.44),
            ImageAugment(0.5, crop_left=0.9),
            ImageAugment(0.5, crop_left=0.1, flip=True),
            ImageAugment(0.5, rotation_deg=5.0),
            ImageAugment(0.45, crop_left=0.3, flip=True, rotation_deg=-4.0),
            ImageAugment(0.36),
        ],
        ids=["test", "right", "flip", "rotation", "all", "narrow"],
    )
    @pytest.mark.parametrize("resize", ["pil_bicubic", "reduced"])
    def test_bright_spot_is_where_the_matrix_says(self, augment: ImageAugment, resize: str):
        image = np.zeros((225, 400, 3), dtype=np.uint8)
        image[178:183, 178:183] = 255
        config = msgspec.structs.replace(CONFIG, resize=resize)
        out, matrix = augmented_image(camera(image), config, augment, name="x")
        expected = (matrix @ [180.5, 180.5, 1])[:2]
        weights = out[..., 0].astype(np.float64)
        rows, columns = np.mgrid[: out.shape[0], : out.shape[1]] + 0.5
        found = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        # Resizing rounds its size down, which shifts pixels by a little, and rotation takes the nearest pixel.
        assert np.abs(found - expected).max() < 0.8

    def test_original_size_and_crop(self):
        """1600 x 900 becomes 768 x 432, of which columns 32 to 736 and rows 176 to 432 are read."""
        config = ImageConfig(size=(256, 704), resized_width=768, train_resized_width=(608, 880))
        image, matrix = augmented_image(camera(picture(900, 1600)), config, ImageAugment(0.48), name="x")
        np.testing.assert_allclose(matrix, [[0.48, 0, -32], [0, 0.48, -176], [0, 0, 1]])
        pil = Image.fromarray(picture(900, 1600)).resize((768, 432))
        np.testing.assert_array_equal(image, np.asarray(pil.crop((32, 176, 736, 432))))

    @pytest.mark.parametrize("width", [1, 49, 176, 333, 799])
    def test_resized_width_is_met_exactly(self, width: int):
        config = msgspec.structs.replace(CONFIG, size=(8, width), resized_width=width)
        image, _ = network_image(camera(np.full((225, 400, 3), 255, np.uint8)), config, name="x")
        assert (image[:, -1, :] > 0).all()

    @pytest.mark.parametrize("size", [(300, 160), (64, 300), (300, 300)], ids=["high", "wide", "both"])
    def test_image_smaller_than_the_network_is_black_above_and_on_the_right(self, size: tuple[int, int]):
        config = msgspec.structs.replace(CONFIG, size=size)
        image, _ = augmented_image(camera(picture()), config, ImageAugment(0.5), name="x")
        pil = Image.fromarray(picture()).resize((200, 112))
        left = max(0, (200 - size[1]) // 2)
        box = (left, 112 - size[0], left + size[1], 112)
        np.testing.assert_array_equal(image, np.asarray(pil.crop(box)))

    def test_augmented_pixels_are_pils(self):
        rng = np.random.default_rng(1)
        for _ in range(20):
            augment = ImageAugment(rng.uniform(0.35, 0.55), rng.uniform(), bool(rng.integers(2)), rng.uniform(-5, 5))
            image, _ = augmented_image(camera(picture()), CONFIG, augment, name="x")
            size = int(400 * augment.scale), int(225 * augment.scale)
            left = int(augment.crop_left * max(0, size[0] - 160))
            pil = Image.fromarray(picture()).resize(size).crop((left, size[1] - 64, left + 160, size[1]))
            pil = pil.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if augment.flip else pil
            np.testing.assert_array_equal(image, np.asarray(pil.rotate(augment.rotation_deg)))


class TestReduced:
    def test_is_close_to_bicubic(self):
        config = msgspec.structs.replace(CONFIG, resize="reduced")
        encoded = camera(jpeg(picture()))
        fast, fast_matrix = augmented_image(encoded, config, ImageAugment(0.44), name="x")
        exact, matrix = augmented_image(encoded, CONFIG, ImageAugment(0.44), name="x")
        np.testing.assert_array_equal(fast_matrix, matrix)
        assert np.abs(fast.astype(int) - exact).mean() < 3

    def test_larger_than_half_decodes_the_full_image(self):
        config = msgspec.structs.replace(CONFIG, resize="reduced")
        fast, _ = augmented_image(camera(jpeg(picture())), config, ImageAugment(0.8), name="x")
        exact, _ = augmented_image(camera(jpeg(picture())), CONFIG, ImageAugment(0.8), name="x")
        assert np.abs(fast.astype(int) - exact).mean() < 3


class TestDecoding:
    def test_jpeg_is_what_pil_decodes(self):
        np.testing.assert_array_equal(
            decoded(camera(jpeg(picture())), "x"), np.asarray(Image.open(io.BytesIO(jpeg(picture()))))
        )

    def test_png_and_array_keep_their_pixels_and_colour_order(self):
        buffer = io.BytesIO()
        Image.fromarray(picture()).save(buffer, "PNG")
        for image in (buffer.getvalue(), picture()):
            np.testing.assert_array_equal(decoded(camera(image), "x"), picture())
            assert image_size(camera(image), "x") == (400, 225)

    def test_orientation_tag_is_ignored(self):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(picture()).save(buffer, "JPEG", exif=exif)
        assert decoded(camera(buffer.getvalue()), "x").shape == (225, 400, 3)

    def test_padding_after_the_end_is_allowed(self):
        assert decoded(camera(jpeg(picture()) + bytes(100)), "x").shape == (225, 400, 3)

    @pytest.mark.parametrize(
        "content",
        [b"", b"no image", jpeg(picture())[:500], jpeg(picture())[:-3], jpeg(picture())[:100]],
        ids=["empty", "text", "half", "end", "header"],
    )
    @pytest.mark.parametrize("resize", ["pil_bicubic", "reduced"])
    def test_damaged_image_is_refused_by_the_cameras_name(self, content: bytes, resize: str):
        config = msgspec.structs.replace(CONFIG, resize=resize)
        with pytest.raises(DataError, match=r"^CAM_LEFT: "):
            network_image(camera(content), config, name="CAM_LEFT")

    @pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
    def test_array_that_is_no_rgb_image_is_refused(self, image: np.ndarray):
        with pytest.raises(DataError, match=r"^CAM_LEFT: expected an RGB uint8 image \(H, W, 3\), got"):
            network_image(camera(image), CONFIG, name="CAM_LEFT")


class TestDistortion:
    DISTORTION = np.array([-0.3, 0.1, 0.001, -0.002, 0.0])

    @pytest.mark.parametrize("resize", ["pil_bicubic", "reduced"])
    def test_point_lands_where_a_pinhole_camera_sees_it(self, resize: str):
        point = np.array([0.4, 0.2, 1.0])
        seen, _ = cv2.projectPoints(point[None], np.zeros(3), np.zeros(3), K, self.DISTORTION)
        image = np.zeros((225, 400, 3), dtype=np.uint8)
        cv2.circle(image, tuple(np.round(seen.ravel()).astype(int).tolist()), 3, (255, 255, 255), -1)
        config = msgspec.structs.replace(CONFIG, size=(96, 176), resize=resize)
        out, matrix = augmented_image(camera(image, self.DISTORTION), config, ImageAugment(0.44), name="x")
        expected = matrix @ K @ point
        row, column = np.unravel_index(out[..., 0].argmax(), out.shape[:2])
        assert abs(column - expected[0]) < 2
        assert abs(row - expected[1]) < 2
        assert np.abs(seen.ravel() - (K @ point)[:2]).max() > 3

    @pytest.mark.parametrize("more", [[], [0.2, -0.05, 0.01]], ids=["plumb_bob", "rational_polynomial"])
    def test_is_opencvs_undistortion(self, more: list[float]):
        distortion = np.array([*self.DISTORTION, *more])
        ours = undistorted(picture(), camera(picture(), distortion))
        np.testing.assert_array_equal(ours, cv2.undistort(picture(), K, distortion))
        assert bool(more) == (not np.array_equal(ours, cv2.undistort(picture(), K, self.DISTORTION)))

    def test_zero_coefficients_leave_the_image_alone(self):
        assert undistorted(picture(), camera(picture(), np.zeros(5))).tolist() == picture().tolist()


def test_normalised_grey_has_imagenets_values():
    image = normalized(np.full((2, 3, 3), 128, dtype=np.uint8))
    assert image.shape == (3, 2, 3)
    assert image.dtype == np.float32
    expected = (128 / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(image[:, 1, 2], expected, atol=1e-6)


def test_pixels_of_a_batch_are_normalised_to_the_bits_of_the_network_image():
    """All 256 levels of each colour."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.stack([levels, levels.T, levels[::-1]], axis=-1)
    np.testing.assert_array_equal(
        normalized_pixels(torch.from_numpy(image.transpose(2, 0, 1)[None])), normalized(image)[None]
    )
    rngs = [np.random.default_rng(5) for _ in range(2)]
    expected, matrix = network_image(camera(picture()), CONFIG, name="x", rng=rngs[0])
    pixels, same = network_pixels(camera(picture()), CONFIG, name="x", rng=rngs[1])
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(normalized_pixels(torch.from_numpy(pixels)), expected)
    np.testing.assert_array_equal(matrix, same)


def test_same_generator_gives_the_same_image():
    first, matrix = network_image(camera(picture()), CONFIG, name="x", rng=np.random.default_rng(5))
    second, same = network_image(camera(picture()), CONFIG, name="x", rng=np.random.default_rng(5))
    other, different = network_image(camera(picture()), CONFIG, name="x", rng=np.random.default_rng(6))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(matrix, same)
    assert np.abs(matrix - different).max() > 0.01
    assert first.shape == other.shape == (3, 64, 160)


@pytest.mark.nuscenes
def test_real_images_are_decoded_and_resized_as_pil_does(nuscenes_root: Path):
    config = ImageConfig(size=(256, 704), resized_width=768, train_resized_width=(608, 880))
    for folder in sorted((nuscenes_root / "samples").glob("CAM_*")):
        path = min(folder.iterdir())
        image, _ = augmented_image(camera(path.read_bytes()), config, ImageAugment(0.48), name="x")
        pil = Image.open(path).resize((768, 432)).crop((32, 176, 736, 432))
        np.testing.assert_array_equal(image, np.asarray(pil))
