"""Camera images and camera models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.types import FloatArray
from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.geometry import header_message
from crkd_ros.conversions.messages import Messages

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
# OpenCV names a mosaic by the second and third pixel of its second row, ROS by the first two of its first two rows.
MOSAICS = {
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}
ENCODINGS = (*CHANNELS, *MOSAICS)
"""Encodings of ``sensor_msgs/Image`` that are read."""
DISTORTIONS = {"plumb_bob": 5, "rational_polynomial": 8}
"""Distortion models that are read, and how many coefficients each has."""
BENT = ("equidistant", "fisheye")
"""Distortion models that are no pinhole even if all coefficients are 0."""


@dataclass(frozen=True)
class CameraModel:
    """What a ``CameraInfo`` says.

    Attributes:
        intrinsics: K, (3, 3) float64, pixels of the full image.
        width: of the full image, pixels.
        height: of the full image, pixels.
        distortion: coefficients in OpenCV's order, float64: plumb_bob (k1, k2, p1, p2, k3), or rational_polynomial with
            (k4, k5, k6) after them; None for a rectified image.
    """

    intrinsics: FloatArray
    width: int
    height: int
    distortion: FloatArray | None = None


def encoded_image_of(message: Any, *, source: str) -> bytes:
    """The JPEG or PNG bytes of a ``sensor_msgs/CompressedImage``, untouched.

    Raises:
        ConversionError: neither JPEG nor PNG, judged by the first bytes.
    """
    data = memoryview(message.data).tobytes()
    if not data.startswith((JPEG_MAGIC, PNG_MAGIC)):
        raise ConversionError(
            f"{source}: expected JPEG or PNG data, got {len(data)} bytes starting with '{data[:8].hex(' ')}' "
            f"(format: '{message.format}')"
        )
    return data


def rgb_image_of(message: Any, *, source: str) -> NDArray[np.uint8]:
    """The pixels of a ``sensor_msgs/Image``: (H, W, 3) uint8 RGB; a view of the message for rgb8 and bgr8.

    A Bayer mosaic is interpolated bilinearly.

    Raises:
        ConversionError: an encoding not in ``ENCODINGS``, no pixels, or fewer bytes than the size asks for.
    """
    encoding = message.encoding
    if encoding not in ENCODINGS:
        raise ConversionError(
            f"{source}: image encoding '{encoding}' is not supported; expected one of {', '.join(ENCODINGS)}"
        )
    channels = CHANNELS.get(encoding, 1)
    height, width, step = int(message.height), int(message.width), int(message.step)
    least = 2 if encoding in MOSAICS else 1
    if height < least or width < least:
        raise ConversionError(
            f"{source}: a {width} x {height} {encoding} image: expected at least {least} x {least} pixels"
        )
    data: NDArray[np.uint8] = np.frombuffer(message.data, dtype=np.uint8)
    # The padding of the last row may be absent.
    if step < width * channels or len(data) < (height - 1) * step + width * channels:
        raise ConversionError(
            f"{source}: a {width} x {height} {encoding} image needs {width * channels} bytes in each row, got "
            f"{len(data)} bytes in rows of {step}"
        )
    shape, strides = (height, width, channels), (step, channels, 1)
    pixels = np.lib.stride_tricks.as_strided(data, shape, strides, writeable=False)
    if channels == 1:
        code = MOSAICS.get(encoding, cv2.COLOR_GRAY2RGB)
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code), dtype=np.uint8)
    return pixels[..., ::-1] if encoding == "bgr8" else pixels


def image_of(
    message: Any, *, source: str, read: Callable[..., NDArray[np.uint8]] = rgb_image_of
) -> bytes | NDArray[np.uint8]:
    """What ``CameraImage.image`` holds, of a ``CompressedImage`` (encoded bytes) or an ``Image`` (RGB pixels).

    Args:
        message: either.
        source: what an error message calls it.
        read: takes the place of ``rgb_image_of``.

    Raises:
        ConversionError: see ``encoded_image_of`` and ``rgb_image_of``.
    """
    if hasattr(message, "format"):
        return encoded_image_of(message, source=source)
    return read(message, source=source)


def compressed_image_message(messages: Messages, data: bytes, *, stamp: int, frame_id: str) -> Any:
    """``sensor_msgs/CompressedImage`` around JPEG or PNG bytes.

    Raises:
        ConversionError: neither JPEG nor PNG.
    """
    if data.startswith(JPEG_MAGIC):
        encoding = "jpeg"
    elif data.startswith(PNG_MAGIC):
        encoding = "png"
    else:
        raise ConversionError(
            f"{frame_id}: expected JPEG or PNG data, got {len(data)} bytes starting with '{data[:8].hex(' ')}'"
        )
    return messages.CompressedImage(
        header=header_message(messages, stamp, frame_id), format=encoding, data=messages.octets(data)
    )


def image_message(
    messages: Messages, pixels: NDArray[np.uint8], *, stamp: int, frame_id: str, encoding: str = "rgb8"
) -> Any:
    """``sensor_msgs/Image`` of RGB pixels (H, W, 3) uint8; mono8 takes the pixels to be grey and keeps one channel.

    Raises:
        ConversionError: an encoding other than rgb8, bgr8 and mono8.
    """
    if encoding not in CHANNELS:
        raise ConversionError(
            f"{frame_id}: image encoding '{encoding}' is not supported; expected one of {', '.join(CHANNELS)}"
        )
    height, width, _ = pixels.shape
    stored = {"rgb8": pixels, "bgr8": pixels[..., ::-1], "mono8": pixels[..., 0]}[encoding]
    return messages.Image(
        header=header_message(messages, stamp, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * CHANNELS[encoding],
        data=messages.octets(stored.tobytes()),
    )


def camera_model_of(message: Any, *, source: str, rectified: bool = False) -> CameraModel:
    """The camera model of a ``sensor_msgs/CameraInfo``.

    Args:
        message: the camera info. One message describes both the images as taken (K and distortion) and the rectified
            ones (R and P).
        source: what an error message calls it.
        rectified: the images it goes with are rectified: K is taken from P, and there is no distortion.

    Raises:
        ConversionError: an uncalibrated camera, a distortion model not in ``DISTORTIONS``, binning, a region of
            interest, or rectification for a stereo pair.
    """
    name, matrix = ("P", message.p) if rectified else ("K", message.k)
    intrinsics = np.array(np.array(matrix, dtype=np.float64).reshape(3, -1)[:, :3])
    if not np.isfinite(intrinsics).all() or intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0 or intrinsics[2, 2] != 1:
        raise ConversionError(
            f"{source}: {name} is not a calibration ({intrinsics.ravel().tolist()}); calibrate the camera"
        )
    if message.binning_x > 1 or message.binning_y > 1 or message.roi.width or message.roi.height:
        raise ConversionError(
            f"{source}: binning ({message.binning_x}, {message.binning_y}) or a region of interest is set; publish the "
            "full image, or a camera_info of the image as it is"
        )
    if rectified:
        _check_single(message, source)
    distortion = None if rectified else _distortion_of(message, source)
    return CameraModel(intrinsics, int(message.width), int(message.height), distortion)


def _check_single(message: Any, source: str) -> None:
    """Rectified images of a stereo pair are turned (R) and refer to the other camera (P): not where tf says."""
    R, shift = np.array(message.r, dtype=np.float64).reshape(3, 3), np.array(message.p, dtype=np.float64)[[3, 7, 11]]
    if shift.any() or (R.any() and not np.allclose(R, np.eye(3), atol=1e-6)):
        raise ConversionError(
            f"{source}: the images are rectified for a stereo pair (R is no identity, or the last column of P is not "
            "zero); use the images as taken, with rectified: false"
        )


def _distortion_of(message: Any, source: str) -> FloatArray | None:
    coefficients = np.array(message.d, dtype=np.float64)
    model = str(message.distortion_model)
    if not coefficients.any() and model not in BENT:
        return None
    if DISTORTIONS.get(model) != coefficients.size or not np.isfinite(coefficients).all():
        expected = " or ".join(f"{name} with {count}" for name, count in DISTORTIONS.items())
        raise ConversionError(
            f"{source}: distortion model '{model}' with {coefficients.size} coefficients is not supported; expected "
            f"{expected} finite ones; otherwise rectify the images (image_proc) and set rectified: true"
        )
    return coefficients


def camera_info_message(messages: Messages, camera: CameraModel, *, stamp: int, frame_id: str) -> Any:
    """``sensor_msgs/CameraInfo`` of a camera model; P is K, as for one camera on its own."""
    distortion = np.zeros(5) if camera.distortion is None else camera.distortion
    projection = np.concatenate([camera.intrinsics, np.zeros((3, 1))], axis=1)
    return messages.CameraInfo(
        header=header_message(messages, stamp, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model={count: name for name, count in DISTORTIONS.items()}[distortion.size],
        d=messages.doubles(distortion),
        k=camera.intrinsics.astype(np.float64).ravel(),
        r=np.eye(3).ravel(),
        p=projection.ravel(),
    )
