"""Camera images made smaller once, so that a training run decodes and resizes less in every epoch.

An image is kept at the size of the largest training scale, or a little above where only that keeps its aspect ratio
exactly: then K, scaled, and all later geometry are exact. Its pixels are resized twice instead of once, and compressed
once more, so they differ slightly from those of the original file; ``training/prepare.py`` measures how much.
Evaluation reads the original files.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from crkd_core.config import ImageConfig
from crkd_core.data.augment import ImageAugment
from crkd_core.data.errors import DataError
from crkd_core.data.images import augmented_image, image_size
from crkd_core.types import CameraImage

JPEG_QUALITY = 95
"""With full colour resolution (4:4:4): the smaller image has as many colours to keep as the file had."""


@dataclass(frozen=True)
class ImageCache:
    """A folder of images, laid out as the data set is.

    Attributes:
        root: data root of the original files.
        folder: of the smaller ones; its name says what they depend on.
        config: the recipe's.
    """

    root: Path
    folder: Path
    config: ImageConfig

    @classmethod
    def of(cls, root: Path, prepared: Path, config: ImageConfig) -> ImageCache:
        """The cache of a recipe's images in the folder of prepared data."""
        width = config.train_resized_width[1]
        return cls(root, prepared / f"images-{width}-{config.resize}-q{JPEG_QUALITY}", config)

    def path(self, source: Path) -> Path:
        """Where the smaller image of a source file is."""
        return (self.folder / source.relative_to(self.root)).with_suffix(".jpg")

    def scale(self, full_size: tuple[int, int]) -> float:
        """Size of the smaller image in parts of the full one (width, height)."""
        return stored_size(full_size, self.config)[0] / full_size[0]

    def is_done(self, source: Path) -> bool:
        """Whether the smaller image is there and no older than its source."""
        try:
            return self.path(source).stat().st_mtime_ns >= source.stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def add(self, source: Path) -> int:
        """Make the smaller image of a source file, in one step; returns its size in bytes.

        Raises:
            DataError: the source cannot be read or decoded.
        """
        try:
            content = source.read_bytes()
        except OSError as error:
            raise DataError(f"{source}: cannot be read: {error.strerror}") from None
        smaller = smaller_jpeg(content, self.config, name=str(source))
        path = self.path(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(smaller)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return len(smaller)


def stored_size(full_size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """(width, height) of the smaller image of one of ``full_size``.

    The least width from the largest training width on whose height is whole; the full size if there is none smaller.
    """
    width, height = full_size
    step = width // math.gcd(width, height)
    stored = math.ceil(config.train_resized_width[1] / step) * step
    return (stored, stored * height // width) if stored < width else full_size


def smaller_jpeg(content: bytes, config: ImageConfig, *, name: str) -> bytes:
    """The smaller image of an encoded one, itself if it is small already.

    Raises:
        DataError: it cannot be decoded; starts with ``name``.
    """
    unplaced = np.eye(4)
    camera = CameraImage(content, np.eye(3), unplaced, unplaced, 0)
    full = image_size(camera, name)
    width, height = stored_size(full, config)
    if (width, height) == full:
        return content
    whole = msgspec.structs.replace(config, size=(height, width))
    image, _ = augmented_image(camera, whole, ImageAugment(width / full[0]), name=name)
    return _encoded(image)


def _encoded(image: NDArray[np.uint8]) -> bytes:
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling])
    assert done
    return np.asarray(data).tobytes()
