"""Camera images made smaller once, so that a training run decodes and resizes less in every epoch.

An image is kept at the size of the largest training scale, or a little above where only that keeps its aspect ratio
exactly: then K, scaled, and all later geometry are exact. Its pixels are resized twice instead of once, and compressed
once more, so they differ slightly from those of the original file; ``training/prepare.py`` measures how much.
Evaluation reads the original files.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from crkd_core.config import ImageConfig
from crkd_core.data.augment import ImageAugment
from crkd_core.data.errors import DataError
from crkd_core.data.images import augmented_image, check_complete, image_size, network_image
from crkd_core.data.parallel import in_order
from crkd_core.types import CameraImage

JPEG_QUALITY = 92
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
        """Size of the smaller image in parts of the full one (width, height).

        Raises:
            DataError: the tables do not say the full size.
        """
        if not all(full_size):
            raise DataError(
                f"{self.root}: sample_data.json: width or height of a camera image is 0; smaller images need it"
            )
        return stored_size(full_size, self.config)[0] / full_size[0]

    def is_done(self, source: Path) -> bool:
        """Whether the smaller image is there and no older than its source."""
        try:
            return self.path(source).stat().st_mtime_ns >= source.stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def add_all(self, sources: Sequence[Path], *, jobs: int) -> Iterator[int | DataError]:
        """``add`` for many files on ``jobs`` processes; sizes in bytes, or what is wrong with a file, in order.

        Raises:
            DataError: a process has died.
        """
        add = functools.partial(_added, self)
        if jobs == 1:
            yield from map(add, sources)
            return
        yield from in_order(add, sources, jobs=jobs, part=4)

    def difference(self, source: Path) -> tuple[float, float]:
        """Mean and largest absolute difference that a smaller image makes in the network input of test time.

        Network input is in standard deviations of ImageNet: one level of grey of 255 is about 0.017.

        Raises:
            DataError: either image is not there or damaged.
        """
        found = []
        for path in (source, self.path(source)):
            try:
                camera = _unplaced(path.read_bytes())
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from None
            found.append(network_image(camera, self.config, name=str(path))[0])
        difference = np.abs(found[1] - found[0])
        return float(difference.mean()), float(difference.max())

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
        DataError: it is damaged; starts with ``name``.
    """
    camera = _unplaced(content)
    full = image_size(camera, name)
    width, height = stored_size(full, config)
    if (width, height) == full:
        check_complete(content, name)
        return content
    whole = msgspec.structs.replace(config, size=(height, width))
    image, _ = augmented_image(camera, whole, ImageAugment(width / full[0]), name=name)
    return _encoded(image)


def _added(cache: ImageCache, source: Path) -> int | DataError:
    try:
        return cache.add(source)
    except DataError as error:
        return error


def _unplaced(content: bytes) -> CameraImage:
    return CameraImage(content, np.eye(3), np.eye(4), np.eye(4), 0)


def _encoded(image: NDArray[np.uint8]) -> bytes:
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling])
    assert done
    return np.asarray(data).tobytes()
