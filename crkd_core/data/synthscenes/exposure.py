"""How a camera turns luminance into 8-bit values: automatic exposure, photon noise, a square-root tone curve."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.types import FloatArray

# The mean luminance is exposed to this share of white: a picture of the night is meant to be dark.
_TARGET = ((0.03, 0.12), (100.0, 0.25))  # (mean luminance in cd/m2, share), in between by the logarithm
# Photons: a lens of f/1.8 that lets 90 % pass gives pi / (4 * 1.8^2) * 0.9 lx per cd/m2; a lx s is 4.1e15 photons/m2 at
# 555 nm, of which a pixel of (3 um)^2 catches 60 %.
_ELECTRONS = np.pi / (4 * 1.8**2) * 0.9 * 4.1e15 * 9e-12 * 0.6  # per cd/m2 and second
_FULL_WELL = 10_000.0  # electrons of a white pixel where light abounds
_LEAST = 100.0  # electrons of a white pixel at the highest gain
_LONGEST = 0.015  # s; longer would smear at driving speed
_SHIFTS = 64  # of the noise field
_STEP = 0.25  # 8-bit steps between noise fields


class Exposure(NamedTuple):
    """Settings of one image.

    Attributes:
        white: luminance that becomes 255, cd/m2.
        time: how long the shutter is open, s.
        electrons: caught by a white pixel of the full-size image.
    """

    white: float
    time: float
    electrons: float

    def coded(self, luminance: FloatArray) -> FloatArray:
        """Values 0..255 of luminances in cd/m2; the tone curve is a square root."""
        return np.asarray(255.0 * np.sqrt(np.clip(luminance / self.white, 0.0, 1.0)))

    def noise(self, scale: float) -> float:
        """Standard deviation of photon noise, 8-bit steps, the same at every value: Poisson under a square root.

        Args:
            scale: width of the image by that of the full-size one; a smaller image averages pixels.
        """
        return 127.5 / float(np.sqrt(self.electrons)) * scale


def expose(mean_luminance: float) -> Exposure:
    """Automatic exposure: short by day, then longer up to 15 ms, then more gain, then the image stays dark."""
    (dark, least), (bright, most) = _TARGET
    target = float(np.interp(np.log(mean_luminance), np.log([dark, bright]), [least, most]))
    white = mean_luminance / target
    time = min(_FULL_WELL / (_ELECTRONS * white), _LONGEST)
    electrons = max(_ELECTRONS * white * time, _LEAST)
    return Exposure(electrons / (_ELECTRONS * time), time, electrons)


def with_noise(image: NDArray[np.uint8], sigma: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The image with noise of a standard deviation in 8-bit steps, to the nearest quarter."""
    height, width = image.shape[:2]
    row, column = rng.integers(0, _SHIFTS, 2)
    if sigma < _STEP / 2:
        return image
    noise = _noise_field(round(sigma / _STEP), height + _SHIFTS, width + _SHIFTS)
    return np.asarray(cv2.add(image, noise[row : row + height, column : column + width], dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=8)
def _noise_field(steps: int, height: int, width: int) -> NDArray[np.int16]:
    """A fixed field of noise, of which each image takes a random part: drawing it afresh would take longer."""
    rng, sigma = np.random.default_rng(5), np.float32(_STEP * steps)
    grey = rng.standard_normal((height, width, 1), dtype=np.float32)
    colour = rng.standard_normal((height, width, 3), dtype=np.float32)
    return np.asarray(np.rint(sigma * (0.8 * grey + 0.6 * colour)), dtype=np.int16)
