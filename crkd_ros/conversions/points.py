"""Point clouds as structured arrays with named columns."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.types import LIDAR_DTYPE
from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.geometry import header_message
from crkd_ros.conversions.messages import Messages

POINT_FIELD_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""``sensor_msgs/PointField`` datatype -> NumPy type code."""

POINT_FIELD_CODES = {code: number for number, code in POINT_FIELD_TYPES.items()}

Field = tuple[str, int, int, int]


def points_of(message: Any, *, source: str) -> NDArray[np.void]:
    """The points of a ``sensor_msgs/PointCloud2`` with all its fields: (N,) structured, a view of the message's data.

    Raises:
        ConversionError: an unknown field type, a field outside the point, or fewer bytes than the size asks for.
    """
    fields = tuple((f.name, int(f.offset), int(f.datatype), int(f.count)) for f in message.fields)
    dtype = _cloud_dtype(fields, int(message.point_step), bool(message.is_bigendian), source)
    height, width, row_step = int(message.height), int(message.width), int(message.row_step)
    if height * width == 0:
        return np.zeros(0, dtype=dtype)
    row_bytes = width * int(message.point_step)
    data = np.frombuffer(message.data, dtype=np.uint8)
    if row_step < row_bytes or len(data) < row_step * (height - 1) + row_bytes:
        raise ConversionError(
            f"{source}: {width} x {height} points of {message.point_step} bytes need {height * row_bytes} bytes, got "
            f"{len(data)} in rows of {row_step}"
        )
    if row_step == row_bytes or height == 1:
        return data[: height * row_bytes].view(dtype)
    rows = [data[start : start + row_bytes].view(dtype) for start in range(0, height * row_step, row_step)]
    return np.concatenate(rows)


def lidar_points_of(message: Any, *, source: str) -> NDArray[np.void]:
    """LiDAR returns of a ``sensor_msgs/PointCloud2``: (N,) ``LIDAR_DTYPE``; no copy where they are packed alike.

    Raises:
        ConversionError: a column of ``LIDAR_DTYPE`` is missing, or see ``points_of``.
    """
    return _as_dtype(points_of(message, source=source), LIDAR_DTYPE, source)


def point_cloud_message(messages: Messages, points: NDArray[np.void], *, stamp: int, frame_id: str) -> Any:
    """``sensor_msgs/PointCloud2`` of a structured array (N,), one field a column, its bytes as they are.

    Raises:
        ConversionError: a column that no point field type can hold.
    """
    point_step = points.dtype.itemsize
    return messages.PointCloud2(
        header=header_message(messages, stamp, frame_id),
        height=1,
        width=len(points),
        fields=[messages.PointField(name=n, offset=o, datatype=d, count=c) for n, o, d, c in _fields(points.dtype)],
        is_bigendian=False,
        point_step=point_step,
        row_step=point_step * len(points),
        data=messages.octets(points.tobytes()),
        is_dense=True,
    )


@lru_cache(maxsize=64)
def _cloud_dtype(fields: tuple[Field, ...], point_step: int, big_endian: bool, source: str) -> np.dtype[np.void]:
    order = ">" if big_endian else "<"
    formats: list[Any] = []
    for name, _, datatype, count in fields:
        if datatype not in POINT_FIELD_TYPES:
            raise ConversionError(
                f"{source}: field '{name}' has datatype {datatype}; expected one of "
                f"{', '.join(map(str, POINT_FIELD_TYPES))}"
            )
        code = order + POINT_FIELD_TYPES[datatype]
        formats.append((code, (count,)) if count > 1 else code)
    try:
        return np.dtype(
            {
                "names": [name for name, *_ in fields],
                "formats": formats,
                "offsets": [offset for _, offset, *_ in fields],
                "itemsize": point_step,
            }
        )
    except ValueError as error:
        raise ConversionError(f"{source}: fields do not fit into a point of {point_step} bytes: {error}") from None


@lru_cache(maxsize=16)
def _fields(dtype: np.dtype[np.void]) -> tuple[Field, ...]:
    fields: list[Field] = []
    for name in dtype.names or ():
        column, offset = dtype.fields[name][:2]  # type: ignore[index]
        code = column.base.str[1:]
        if code not in POINT_FIELD_CODES or column.base.byteorder == ">":
            raise ConversionError(f"column '{name}': type {column} has no point field type")
        fields.append((name, int(offset), POINT_FIELD_CODES[code], int(np.prod(column.shape, dtype=int))))
    return tuple(fields)


def _as_dtype(points: NDArray[np.void], dtype: np.dtype[np.void], source: str) -> NDArray[np.void]:
    if points.dtype == dtype:
        return points
    found = points.dtype.names or ()
    wanted = dtype.names or ()
    if not found and not len(points):
        return np.zeros(0, dtype=dtype)  # some drivers describe no fields when they saw nothing
    missing = [name for name in wanted if name not in found]
    if missing:
        plural = "fields" if len(missing) > 1 else "field"
        names = ", ".join(f"'{name}'" for name in missing)
        raise ConversionError(f"{source}: {plural} {names} missing (found {', '.join(found) or 'none'})")
    out = np.empty(len(points), dtype=dtype)
    for name in wanted:
        out[name] = cast(points[name], dtype[name], name=name, source=source)
    return out


def cast(column: NDArray[Any], dtype: np.dtype[Any], *, name: str, source: str) -> NDArray[Any]:
    """A column in another type, if that changes nothing but the precision of floats.

    Raises:
        ConversionError: it would change values; names the field and ``source``.
    """
    if column.ndim > 1:
        raise ConversionError(f"{source}: field '{name}' holds {column[0:1].size} values a point; expected one")
    if np.can_cast(column.dtype, dtype, casting="same_kind"):
        return column.astype(dtype, copy=False)
    # A driver may publish small integers as float32: exact values are welcome, others would silently change.
    with np.errstate(invalid="ignore"):
        out = column.astype(dtype)
    if not np.array_equal(out, column):
        raise ConversionError(f"{source}: field '{name}' holds values that {dtype} cannot represent")
    return out
