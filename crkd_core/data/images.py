"""Camera images: decoded, undistorted, resized, cropped, augmented and normalised for the network."""

from __future__ import annotations

import functools
import io
import math
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from crkd_core.config import ImageConfig
from crkd_core.data.augment import ImageAugment, draw_image_augment, fixed_image_augment
from crkd_core.data.errors import DataError
from crkd_core.data.jpeg import jpeg_damage, jpeg_size
from crkd_core.types import CameraImage, FloatArray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_GAIN = (1.0 / (255.0 * np.array(IMAGENET_STD))).astype(np.float32)[:, None, None]
_OFFSET = (np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)).astype(np.float32)[:, None, None]


def network_image(
    camera: CameraImage, config: ImageConfig, *, name: str, rng: np.random.Generator | None = None
) -> tuple[NDArray[np.float32], FloatArray]:
    """One camera image as the network reads it.

    A camera with distortion coefficients is undistorted first, keeping its K.

    Args:
        camera: encoded or RGB image.
        config: size, resizing and augmentation.
        name: of the camera, for errors.
        rng: draws the augmentation; None: test time.

    Returns:
        The (3, H, W) float32 RGB image, ImageNet-normalised, and the (3, 3) float64 matrix from homogeneous pixels of
        the full image to its pixels.

    Raises:
        DataError: the image cannot be decoded.
    """
    image, matrix = _drawn(camera, config, name, rng)
    return normalized(image), matrix


def network_pixels(
    camera: CameraImage, config: ImageConfig, *, name: str, rng: np.random.Generator | None = None
) -> tuple[NDArray[np.uint8], FloatArray]:
    """``network_image`` before it is normalised: (3, H, W) uint8 RGB, and the same matrix."""
    image, matrix = _drawn(camera, config, name, rng)
    return _planes(image), matrix


def augmented_image(
    camera: CameraImage, config: ImageConfig, augment: ImageAugment, *, name: str
) -> tuple[NDArray[np.uint8], FloatArray]:
    """The image after one given transformation: resize, crop, flip, rotate.

    The matrix ignores half-pixel conventions of resizing, as the original does.

    Args:
        camera: encoded or RGB image.
        config: network size and how to resize.
        augment: the transformation.
        name: of the camera, for errors.

    Returns:
        (H, W, 3) uint8 RGB and the (3, 3) float64 matrix, full image pixel -> its pixel.

    Raises:
        DataError: the image cannot be decoded.
    """
    return _augmented(camera, image_size(camera, name), config, augment, name)


def _drawn(
    camera: CameraImage, config: ImageConfig, name: str, rng: np.random.Generator | None
) -> tuple[NDArray[np.uint8], FloatArray]:
    """``augmented_image`` after a drawn transformation, or the one of test time."""
    full_size = image_size(camera, name)
    if rng is None:
        augment = fixed_image_augment(config, full_size[0])
    else:
        augment = draw_image_augment(config, full_size[0], rng)
    return _augmented(camera, full_size, config, augment, name)


def _augmented(
    camera: CameraImage, full_size: tuple[int, int], config: ImageConfig, augment: ImageAugment, name: str
) -> tuple[NDArray[np.uint8], FloatArray]:
    """``augmented_image`` of a camera whose full image has this (width, height): its header is read once."""
    height, width = config.size
    full_width, full_height = full_size
    # The small term keeps width * (w / width) from being truncated to w - 1.
    size = max(1, int(full_width * augment.scale + 1e-6)), max(1, int(full_height * augment.scale + 1e-6))
    left, top = int(augment.crop_left * max(0, size[0] - width)), size[1] - height
    # Decoded at half its size, an image lacks the finest DCT coefficients only; undistortion would need the full one.
    halved = config.resize == "reduced" and not _distorted(camera) and size[0] <= full_width // 2
    image = undistorted(decoded(camera, name, reduction=2 if halved else 1), camera)
    cut = _resized_part(image, config, size, (left, top, left + width, top + height))
    matrix = np.diag([augment.scale, augment.scale, 1.0])
    matrix[:2, 2] = [-left, -top]
    if augment.flip:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        matrix = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ matrix
    if augment.rotation_deg:
        cut = cut.rotate(augment.rotation_deg)
        matrix = _rotation_about(width / 2, height / 2, np.deg2rad(augment.rotation_deg)) @ matrix
    return np.asarray(cut), matrix


def normalized(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 with ImageNet's mean and standard deviation."""
    planes: NDArray[np.float32] = _planes(image) * _GAIN
    planes -= _OFFSET
    return planes


def normalized_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """(M, 3, H, W) uint8 RGB -> float32 as ``normalized``, to the same bits, on the device of ``pixels``."""
    gain, offset = (torch.from_numpy(values).to(pixels.device, non_blocking=True) for values in (_GAIN, _OFFSET))
    return (pixels * gain).sub_(offset)


def image_size(camera: CameraImage, name: str) -> tuple[int, int]:
    """(width, height) of the full image; reads only the header of an encoded one.

    Raises:
        DataError: not an image.
    """
    if not isinstance(camera.image, bytes):
        height, width = _checked_rgb(camera.image, name).shape[:2]
        return int(width), int(height)
    size = jpeg_size(camera.image)
    if size is not None:
        return size
    try:
        with Image.open(io.BytesIO(camera.image)) as header:
            return header.size
    except OSError:
        raise DataError(f"{name}: not a JPEG or PNG image ({len(camera.image)} bytes)") from None


def decoded(camera: CameraImage, name: str, *, reduction: Literal[1, 2, 4] = 1) -> NDArray[np.uint8]:
    """The image, (H, W, 3) uint8 RGB, not undistorted.

    Args:
        camera: encoded or RGB image.
        name: of the camera, for errors.
        reduction: an encoded image is decoded at this part of its size, which saves most of the time; an RGB one is
            taken as it is.

    Raises:
        DataError: it cannot be decoded, or ends early.
    """
    if not isinstance(camera.image, bytes):
        return _checked_rgb(camera.image, name)
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    return _decode(camera.image, flags[reduction], name)


def undistorted(image: NDArray[np.uint8], camera: CameraImage) -> NDArray[np.uint8]:
    """The full image (H, W, 3) as a pinhole camera of the same K sees it; unchanged if there is no distortion."""
    if not _distorted(camera):
        return image
    map_x, map_y = _undistortion_maps(
        np.asarray(camera.intrinsics, dtype=np.float64).tobytes(),
        np.asarray(camera.distortion, dtype=np.float64).tobytes(),
        image.shape[:2],
    )
    return np.asarray(cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR), dtype=np.uint8)


def _planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) -> (3, H, W), contiguous: ten times as fast as a copy of the transposed array."""
    return np.stack(cv2.split(image))


def _distorted(camera: CameraImage) -> bool:
    return camera.distortion is not None and bool(np.any(camera.distortion))


def _resized_part(
    image: NDArray[np.uint8], config: ImageConfig, size: tuple[int, int], box: tuple[int, int, int, int]
) -> Image.Image:
    """The part ``box`` (left, top, right, bottom) of the image resized to ``size`` (width, height); black outside."""
    if config.resize == "pil_bicubic":
        return _bicubic_part(image, size, box)
    shrinks = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    left, top, right, bottom = box
    above = min(0, top)
    part = np.ascontiguousarray(resized[top - above : bottom, left:right])
    return Image.fromarray(part).crop((0, above, right - left, above + bottom - top))


def _bicubic_part(image: NDArray[np.uint8], size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """That part of PIL's bicubic resize to ``size``, bit for bit; black outside.

    PIL resizes horizontally, then vertically. Done one after the other, they take a third less: the first only for
    rows of the full image that reach into the part, the second only for columns of the part.
    """
    left, top, right, bottom = box
    height = image.shape[0]
    step = height / size[1]
    reach = math.ceil(2 * max(step, 1.0)) + 1
    start = max(0, math.floor(top * step) - reach)
    bicubic = Image.Resampling.BICUBIC
    rows = Image.fromarray(image[start:]).resize((size[0], height - start), bicubic)
    # Black rows above put the others back where they were in the full image.
    columns = rows.crop((left, -start, min(right, size[0]), height - start))
    return columns.resize((columns.width, size[1]), bicubic).crop((0, top, right - left, bottom))


def _rotation_about(x: float, y: float, angle: float) -> FloatArray:
    """(3, 3), pixels turned counter-clockwise as seen (v points down) about (x, y)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y], [0.0, 0.0, 1.0]])


def check_complete(encoded: bytes, name: str) -> None:
    """Check a JPEG for damage that shows in its bytes, without decoding it (see ``jpeg_damage``); other formats pass.

    Raises:
        DataError: it is truncated or damaged; starts with ``name``.
    """
    damage = jpeg_damage(encoded)
    if damage is not None:
        raise DataError(f"{name}: {damage}")


def _decode(encoded: bytes, flag: int, name: str) -> NDArray[np.uint8]:
    """RGB; the file's orientation tag is ignored, since K refers to the stored pixels."""
    check_complete(encoded, name)
    bgr = None
    if encoded:
        bgr = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise DataError(f"{name}: not a JPEG or PNG image, or damaged ({len(encoded)} bytes)")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _checked_rgb(image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"{name}: expected an RGB uint8 image (H, W, 3), got {image.dtype} {image.shape}")
    return image


@functools.lru_cache(maxsize=32)
def _undistortion_maps(
    intrinsics: bytes, distortion: bytes, shape: tuple[int, int]
) -> tuple[cv2.typing.MatLike, cv2.typing.MatLike]:
    K = np.frombuffer(intrinsics).reshape(3, 3)
    maps = cv2.initUndistortRectifyMap(K, np.frombuffer(distortion), np.eye(3), K, shape[::-1], cv2.CV_16SC2)
    return maps[0], maps[1]
