"""The map around a drive: cut out of nuScenes' map masks, which are too large to be decoded as a whole.

A mask has a gigapixel. It is decompressed in strips, and only the rows and columns around a drive are kept; all drives
on one map share the pass.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.errors import DataError
from crkd_core.types import FloatArray
from crkd_ros import topics
from crkd_ros.conversions import header_message, time_message
from rosbag_tools.typestore import bag_message, bag_messages

PIXEL = 0.1
"""Metres per pixel of a nuScenes map mask; its lower left corner is the map frame's origin."""
STEP = 2
"""One cell for so many pixels a side."""
MARGIN = 75.0
"""How far beyond the drive the map reaches, m."""
DRIVABLE, NOT_DRIVABLE = 0, 100
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STRIP = 1 << 22
_NONE, _SUB, _UP = range(3)


@dataclass(frozen=True)
class MapCrop:
    """A part of a map.

    Attributes:
        cells: (H, W) int8, row 0 the southernmost: 0 drivable or walkable, 100 neither.
        origin: x and y of the corner of cell (0, 0) in the map frame, m.
    """

    cells: NDArray[np.int8]
    origin: tuple[float, float]


def map_message(crop: MapCrop, stamp: int) -> Any:
    """``nav_msgs/OccupancyGrid`` of a crop."""
    m = bag_messages()
    height, width = crop.cells.shape
    x, y = crop.origin
    info = bag_message("nav_msgs/msg/MapMetaData")(
        map_load_time=time_message(m, stamp),
        resolution=PIXEL * STEP,
        width=width,
        height=height,
        origin=m.Pose(position=m.Point(x=x, y=y, z=0.0), orientation=m.Quaternion(w=1.0)),
    )
    return bag_message("nav_msgs/msg/OccupancyGrid")(
        header=header_message(m, stamp, topics.MAP_FRAME), info=info, data=crop.cells.ravel()
    )


def crop_of(message: Any) -> MapCrop:
    """The crop in a ``nav_msgs/OccupancyGrid`` that ``map_message`` made."""
    cells = np.array(message.data, dtype=np.int8).reshape(message.info.height, message.info.width)
    origin = message.info.origin.position
    return MapCrop(cells, (origin.x, origin.y))


def mask_png(crop: MapCrop | None) -> bytes:
    """A map mask as nuScenes has them: 8-bit grey PNG, 255 drivable, ``PIXEL`` metres a pixel, origin lower left.

    Args:
        crop: what is known of the map; None: nothing, the mask has one pixel.
    """
    cells = np.zeros((0, 0), dtype=np.int8) if crop is None else crop.cells
    left, below = (round(x / PIXEL) for x in (crop.origin if crop is not None else (0.0, 0.0)))
    width, height = max(1, left + STEP * cells.shape[1]), max(1, below + STEP * cells.shape[0])
    compress = zlib.compressobj(1)
    parts = []
    for row in cells[::-1]:
        line = np.zeros(width + 1, dtype=np.uint8)  # its first byte is the filter: none
        line[1 + left :] = np.repeat(np.where(row == DRIVABLE, 255, 0), STEP)
        parts.append(compress.compress(line.tobytes() * STEP))
    empty = bytes(width + 1)
    parts += [compress.compress(empty) for _ in range(height - STEP * cells.shape[0])]
    parts.append(compress.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _SIGNATURE + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", b"".join(parts)) + _png_chunk(b"IEND", b"")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def map_crops(path: Path, drives: Mapping[str, FloatArray]) -> dict[str, MapCrop]:
    """Cut the surroundings of drives out of a map mask, in one pass over it.

    Args:
        path: an 8-bit grey PNG.
        drives: name -> (N, 2) positions in the map frame, m.

    Raises:
        DataError: unreadable, damaged, or a kind of PNG that cannot be read in strips.
    """
    try:
        with path.open("rb") as file:
            return _crops(file.read(), path, drives)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (zlib.error, struct.error) as error:
        raise DataError(f"{path}: damaged map: {error}; copy the file again") from None


def _crops(content: bytes, path: Path, drives: Mapping[str, FloatArray]) -> dict[str, MapCrop]:
    width, height = _size(content, path)
    boxes = {name: _box(xy, width, height) for name, xy in drives.items()}
    parts: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in drives}
    last = max((bottom for _, _, _, bottom in boxes.values()), default=0)
    for number, row in enumerate(_rows(content, width, path)):
        if number >= last:
            break
        for name, (left, right, top, bottom) in boxes.items():
            if top <= number < bottom and (bottom - 1 - number) % STEP == 0:
                parts[name].append(row[left:right:STEP].copy())
    crops = {}
    for name, (left, _, top, bottom) in boxes.items():
        expected = -(-(bottom - top) // STEP)
        if len(parts[name]) != expected:
            raise DataError(f"{path}: truncated map; copy the file again")
        mask = np.stack(parts[name][::-1]) if parts[name] else np.zeros((0, 0), dtype=np.uint8)
        cells = np.where(mask > 127, DRIVABLE, NOT_DRIVABLE).astype(np.int8)
        crops[name] = MapCrop(cells, (left * PIXEL, (height - bottom) * PIXEL))
    return {name: crop for name, crop in crops.items() if crop.cells.size}


def _box(xy: FloatArray, width: int, height: int) -> tuple[int, int, int, int]:
    """Columns left to right and rows top to bottom of a drive's surroundings, within the image."""
    low, high = (xy.min(axis=0) - MARGIN) / PIXEL, (xy.max(axis=0) + MARGIN) / PIXEL
    left, right = (int(np.clip(x, 0, width)) for x in (low[0], high[0]))
    top, bottom = (int(np.clip(height - y, 0, height)) for y in (high[1], low[1]))
    return left, right, top, bottom


def _size(content: bytes, path: Path) -> tuple[int, int]:
    if not content.startswith(_SIGNATURE):
        raise DataError(f"{path}: not a PNG file; copy the file again")
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    if (depth, color, interlaced) != (8, 0, 0):
        raise DataError(f"{path}: expected an 8-bit grey PNG that is not interlaced, as nuScenes has them")
    return width, height


def _rows(content: bytes, width: int, path: Path) -> Iterator[NDArray[np.uint8]]:
    """The image's rows from the top; memory for one strip only."""
    above = np.zeros(width, dtype=np.uint8)
    rest = b""
    for strip in _decompressed(content):
        rest += strip
        count = len(rest) // (width + 1)
        lines = np.frombuffer(rest, dtype=np.uint8, count=count * (width + 1)).reshape(count, width + 1)
        for line in lines:
            above = _unfiltered(line, above, path)
            yield above
        rest = rest[count * (width + 1) :]


def _unfiltered(line: NDArray[np.uint8], above: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    kind, row = int(line[0]), line[1:]
    if kind == _NONE:
        return row
    if kind == _SUB:
        return np.add.accumulate(row, dtype=np.uint8)
    if kind == _UP:
        return row + above
    raise DataError(f"{path}: PNG filter {kind} cannot be read in strips; save the mask with filter 0, 1 or 2")


def _decompressed(content: bytes) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    position = len(_SIGNATURE)
    while position < len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        data = content[position + 8 : position + 8 + length]
        position += 12 + length
        if kind != b"IDAT":
            continue
        while data:
            yield inflate.decompress(data, _STRIP)
            data = inflate.unconsumed_tail
