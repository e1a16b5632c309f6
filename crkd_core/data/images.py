"""Camera images: decoded, undistorted, resized, cropped, augmented and normalised for the network."""

from __future__ import annotations

import functools
import io
import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crkd_core.config import ImageConfig
from crkd_core.data.augment import ImageAugment, draw_image_augment, fixed_image_augment
from crkd_core.data.errors import DataError
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
    full_width, _ = image_size(camera, name)
    augment = fixed_image_augment(config, full_width) if rng is None else draw_image_augment(config, full_width, rng)
    image, matrix = augmented_image(camera, config, augment, name=name)
    return normalized(image), matrix


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
    height, width = config.size
    full_width, full_height = image_size(camera, name)
    # The small term keeps width * (w / width) from being truncated to w - 1.
    size = max(1, int(full_width * augment.scale + 1e-6)), max(1, int(full_height * augment.scale + 1e-6))
    left, top = int(augment.crop_left * max(0, size[0] - width)), size[1] - height
    cut = _resized_part(camera, config, size, (left, top, left + width, top + height), name)
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
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    planes *= _GAIN
    planes -= _OFFSET
    return planes


def image_size(camera: CameraImage, name: str) -> tuple[int, int]:
    """(width, height) of the full image; reads only the header of an encoded one.

    Raises:
        DataError: not an image.
    """
    if not isinstance(camera.image, bytes):
        height, width = _checked_rgb(camera.image, name).shape[:2]
        return int(width), int(height)
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
    if camera.distortion is None or not np.any(camera.distortion):
        return image
    map_x, map_y = _undistortion_maps(
        np.asarray(camera.intrinsics, dtype=np.float64).tobytes(),
        np.asarray(camera.distortion, dtype=np.float64).tobytes(),
        image.shape[:2],
    )
    return np.asarray(cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR), dtype=np.uint8)


def _resized_part(
    camera: CameraImage, config: ImageConfig, size: tuple[int, int], box: tuple[int, int, int, int], name: str
) -> Image.Image:
    """The part ``box`` (left, top, right, bottom) of the image resized to ``size`` (width, height); black outside."""
    straight = camera.distortion is None or not np.any(camera.distortion)
    half = [side // 2 for side in image_size(camera, name)]
    if config.resize == "reduced" and straight and isinstance(camera.image, bytes) and size[0] <= half[0]:
        # Leaves out the finest DCT coefficients; undistortion would need the full image.
        image = decoded(camera, name, reduction=2)
    else:
        image = undistorted(decoded(camera, name), camera)
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
    """Check that a JPEG ends with its end marker, without decoding it; other formats pass.

    OpenCV fills what is missing of a JPEG with grey and says nothing. Cameras may pad the file after the marker.

    Raises:
        DataError: it does not; starts with ``name``.
    """
    if encoded[:2] == b"\xff\xd8" and b"\xff\xd9" not in encoded[-256:]:
        raise DataError(f"{name}: truncated JPEG image ({len(encoded)} bytes, no end marker)")


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
