from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.types import FloatArray
from crkd_ros.conversions import (
    CameraModel,
    ConversionError,
    Messages,
    camera_info_message,
    camera_model_of,
    compressed_image_message,
    encoded_image_of,
    image_message,
    image_of,
    rgb_image_of,
    stamp_of,
)

STAMP = 1_538_984_233_512_470_000
K = np.array([[1266.417, 0.0, 816.267], [0.0, 1266.417, 491.507], [0.0, 0.0, 1.0]])


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, size=(7, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(("suffix", "encoding"), [(".jpg", "jpeg"), (".png", "png")])
def test_compressed_bytes_pass_through_untouched(
    messages: Messages, sent: Callable[[Any], Any], pixels: NDArray[np.uint8], suffix: str, encoding: str
) -> None:
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    message = sent(compressed_image_message(messages, data, stamp=STAMP, frame_id="cam_front"))
    assert encoded_image_of(message, source="cam_front") == data
    assert image_of(message, source="cam_front") == data
    assert (message.format, stamp_of(message.header.stamp), message.header.frame_id) == (encoding, STAMP, "cam_front")


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_raw_image_arrives_as_rgb(
    messages: Messages, sent: Callable[[Any], Any], pixels: NDArray[np.uint8], encoding: str
) -> None:
    message = sent(image_message(messages, pixels, stamp=STAMP, frame_id="cam_front", encoding=encoding))
    assert message.encoding == encoding
    np.testing.assert_array_equal(rgb_image_of(message, source="cam_front"), pixels)


def test_bgr_message_holds_blue_first(messages: Messages, pixels: NDArray[np.uint8]) -> None:
    message = image_message(messages, pixels, stamp=0, frame_id="cam_front", encoding="bgr8")
    assert bytes(message.data)[:3] == bytes(pixels[0, 0, ::-1])


def test_grey_image_fills_three_channels(
    messages: Messages, sent: Callable[[Any], Any], pixels: NDArray[np.uint8]
) -> None:
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    message = sent(image_message(messages, grey, stamp=STAMP, frame_id="cam_front", encoding="mono8"))
    assert len(message.data) == 7 * 5
    np.testing.assert_array_equal(rgb_image_of(message, source="cam_front"), grey)


def test_padding_at_the_end_of_rows_is_skipped(
    messages: Messages, sent: Callable[[Any], Any], pixels: NDArray[np.uint8]
) -> None:
    padded = np.zeros((7, 5 * 3 + 9), dtype=np.uint8)
    padded[:, :15] = pixels.reshape(7, 15)
    message = messages.Image(height=7, width=5, encoding="rgb8", step=24, data=messages.octets(padded.tobytes()))
    np.testing.assert_array_equal(image_of(sent(message), source="cam_front"), pixels)


def test_unknown_encoding_is_refused(messages: Messages) -> None:
    message = messages.Image(height=1, width=1, encoding="yuv422", step=2, data=messages.octets(b"\0\0"))
    with pytest.raises(ConversionError, match=r"cam_front: image encoding 'yuv422'.*rgb8, bgr8, mono8, bayer_rggb8"):
        rgb_image_of(message, source="cam_front")


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaic_of_one_colour_gives_that_colour(
    messages: Messages, sent: Callable[[Any], Any], pattern: str
) -> None:
    colour = {"r": 200, "g": 90, "b": 30}
    tile = np.array([colour[c] for c in pattern], dtype=np.uint8).reshape(2, 2)
    padded = np.pad(np.tile(tile, (3, 4)), ((0, 0), (0, 5)), constant_values=255)
    message = messages.Image(
        height=6, width=8, encoding=f"bayer_{pattern}8", step=13, data=messages.octets(padded.tobytes())
    )
    found = rgb_image_of(sent(message), source="cam_front")
    np.testing.assert_array_equal(found, np.broadcast_to(np.array([200, 90, 30], dtype=np.uint8), (6, 8, 3)))


@pytest.mark.parametrize(("encoding", "side"), [("rgb8", 0), ("bayer_rggb8", 1)])
def test_image_without_pixels_is_refused(messages: Messages, encoding: str, side: int) -> None:
    message = messages.Image(height=side, width=side, encoding=encoding, step=side, data=messages.octets(bytes(side)))
    with pytest.raises(ConversionError, match=f"a {side} x {side} {encoding} image: expected at least"):
        rgb_image_of(message, source="cam_front")


def test_padding_of_the_last_row_may_be_absent(messages: Messages, pixels: NDArray[np.uint8]) -> None:
    padded = np.zeros((7, 24), dtype=np.uint8)
    padded[:, :15] = pixels.reshape(7, 15)
    data = padded.tobytes()[:-9]
    message = messages.Image(height=7, width=5, encoding="rgb8", step=24, data=messages.octets(data))
    np.testing.assert_array_equal(rgb_image_of(message, source="cam_front"), pixels)


def test_too_short_image_is_refused(messages: Messages) -> None:
    message = messages.Image(height=2, width=2, encoding="rgb8", step=6, data=messages.octets(bytes(11)))
    with pytest.raises(ConversionError, match="cam_front: a 2 x 2 rgb8 image"):
        rgb_image_of(message, source="cam_front")


@pytest.mark.parametrize("data", [b"", b"GIF89a..."])
def test_neither_jpeg_nor_png_is_refused(messages: Messages, data: bytes) -> None:
    with pytest.raises(ConversionError, match="cam_front: expected JPEG or PNG"):
        compressed_image_message(messages, data, stamp=0, frame_id="cam_front")
    message = messages.CompressedImage(format="jpeg", data=messages.octets(data))
    with pytest.raises(ConversionError, match="cam_front: expected JPEG or PNG"):
        encoded_image_of(message, source="cam_front")


@pytest.mark.parametrize(
    "distortion", [None, np.array([-0.3, 0.1, 1e-3, -2e-3, 0.01]), np.array([1.5, 0.7, 1e-3, 0, 0.1, 1.9, 1.1, 0.2])]
)
def test_camera_info_round_trip(messages: Messages, sent: Callable[[Any], Any], distortion: FloatArray | None) -> None:
    camera = CameraModel(K, 1600, 900, distortion)
    found = camera_model_of(
        sent(camera_info_message(messages, camera, stamp=STAMP, frame_id="cam_front")), source="cam_front"
    )
    np.testing.assert_array_equal(found.intrinsics, K)
    assert (found.width, found.height) == (1600, 900)
    if distortion is None:
        assert found.distortion is None
    else:
        np.testing.assert_array_equal(found.distortion, distortion)


def test_rectified_images_use_the_projection_matrix(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = camera_info_message(messages, CameraModel(K, 1600, 900, np.full(5, 0.1)), stamp=0, frame_id="cam_front")
    message.p = np.array([1000, 0, 800, 0, 0, 1000, 450, 0, 0, 0, 1, 0], dtype=np.float64)
    found = camera_model_of(sent(message), source="cam_front", rectified=True)
    assert (found.intrinsics[0, 0], found.intrinsics[1, 2], found.distortion) == (1000, 450, None)


def test_uncalibrated_camera_is_refused(messages: Messages) -> None:
    with pytest.raises(ConversionError, match="cam_front: K is not a calibration"):
        camera_model_of(messages.CameraInfo(width=1600, height=900), source="cam_front")


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("equidistant", np.full(4, 0.1)),
        ("equidistant", np.zeros(4)),
        ("rational_polynomial", np.full(5, 0.1)),
        ("plumb_bob", np.full(5, np.nan)),
    ],
)
def test_other_distortion_is_refused_with_the_fix(messages: Messages, model: str, coefficients: FloatArray) -> None:
    message = camera_info_message(messages, CameraModel(K, 1600, 900), stamp=0, frame_id="cam_front")
    message.distortion_model, message.d = model, messages.doubles(coefficients)
    count = len(coefficients)
    with pytest.raises(ConversionError, match=f"'{model}' with {count} coefficients.*set rectified: true"):
        camera_model_of(message, source="cam_front")


@pytest.mark.parametrize("field", ["r", "p"])
def test_images_rectified_for_a_stereo_pair_are_refused(messages: Messages, field: str) -> None:
    message = camera_info_message(messages, CameraModel(K, 1600, 900), stamp=0, frame_id="cam_front")
    values = np.array(getattr(message, field), dtype=np.float64)
    values[3] = 0.1
    setattr(message, field, values)
    camera_model_of(message, source="cam_front")
    with pytest.raises(ConversionError, match="cam_front: the images are rectified for a stereo pair"):
        camera_model_of(message, source="cam_front", rectified=True)


def test_binned_camera_is_refused(messages: Messages) -> None:
    message = camera_info_message(messages, CameraModel(K, 1600, 900), stamp=0, frame_id="cam_front")
    message.binning_x = 2
    with pytest.raises(ConversionError, match="cam_front: binning"):
        camera_model_of(message, source="cam_front")
