"""The index's file: a NumPy archive (.npz, no pickle) whose arrays are read by memory map."""

from __future__ import annotations

import io
import logging
import mmap
import os
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from crkd_core.data.nuscenes_columns import Content, Description
from crkd_core.data.nuscenes_files import FolderStates, Presence

logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the files: raise it whenever what they hold changes."""

TableState = list[tuple[str, int, int]]
HeaderT = TypeVar("HeaderT", bound=msgspec.Struct)


class _IndexHeader(msgspec.Struct, frozen=True):
    format: int
    tables: TableState
    description: Description


class _PresenceHeader(msgspec.Struct, frozen=True):
    format: int
    tables: TableState
    folders: FolderStates


class _Version(msgspec.Struct, frozen=True):
    format: int
    tables: TableState


def read_content(path: Path, tables: TableState) -> Content | str:
    """The cached content, or why there is none for exactly these tables; empty: no file.

    Args:
        path: the index file.
        tables: state of the tables, as of ``nuscenes_tables.table_state``.
    """
    found = _read(path, tables, _IndexHeader)
    if isinstance(found, str):
        return found
    header, arrays = found
    try:
        return Content(description=header.description, **arrays)
    except TypeError as error:
        return f"{path} is damaged ({error})"


def write_content(path: Path, tables: TableState, content: Content) -> None:
    """Write the index file in one step; a place that cannot be written to is only a warning."""
    arrays = {f.name: getattr(content, f.name) for f in fields(Content) if f.name != "description"}
    _write(path, _IndexHeader(FORMAT, tables, content.description), arrays)


def read_presence(path: Path, tables: TableState) -> Presence | None:
    """Which files were there when the folders were listed last; None: not known for these tables."""
    found = _read(_presence_path(path), tables, _PresenceHeader)
    return None if isinstance(found, str) else Presence(found[0].folders, found[1]["present"])


def write_presence(path: Path, tables: TableState, presence: Presence) -> None:
    """Keep it beside the index file."""
    header = _PresenceHeader(FORMAT, tables, presence.folders)
    _write(_presence_path(path), header, {"present": presence.present})


def _presence_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.files{path.suffix}")


def _read(path: Path, tables: TableState, header: type[HeaderT]) -> tuple[HeaderT, dict[str, NDArray[Any]]] | str:
    """What is in a file, or why it is of no use; empty: there is none."""
    try:
        arrays = mapped_arrays(path)
        encoded = arrays.pop("header").tobytes()
        version = msgspec.json.decode(encoded, type=_Version)
        if version.format != FORMAT:
            return f"{path} is of another version of this program"
        if version.tables != tables:
            return "the tables have changed since"
        return msgspec.json.decode(encoded, type=header), arrays
    except FileNotFoundError:
        return ""
    except (OSError, zipfile.BadZipFile, msgspec.MsgspecError, ValueError, KeyError) as error:
        return f"{path} is damaged ({error})"


def _write(path: Path, header: msgspec.Struct, arrays: Mapping[str, NDArray[Any]]) -> None:
    encoded = np.frombuffer(msgspec.json.encode(header), dtype=np.uint8)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                np.savez(file, header=encoded, **arrays)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: index not cached: %s", path, error)


def mapped_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an uncompressed .npz file, read-only, where they lie in the file.

    ``numpy.load`` would copy each of them into the memory of every process.

    Raises:
        OSError: it cannot be read.
        zipfile.BadZipFile: not an .npz file, or not all of it.
        ValueError: an array of Python objects, or compressed.
    """
    with path.open("rb") as file:
        members = zipfile.ZipFile(file).infolist()
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {member.filename.removesuffix(".npy"): _mapped(memory, member) for member in members}


def _mapped(memory: mmap.mmap, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    # A member's local header: 30 bytes, of which the last four are the lengths of the two texts that follow it.
    lengths = memory[member.header_offset + 26 : member.header_offset + 30]
    start = member.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    head = io.BytesIO(memory[start : start + min(member.file_size, 1 << 16)])
    npy.read_magic(head)  # type: ignore[no-untyped-call]
    shape, _, dtype = npy.read_array_header_1_0(head)  # type: ignore[no-untyped-call]
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.zeros(shape, dtype=dtype)
    return np.frombuffer(memory, dtype=dtype, count=count, offset=start + head.tell()).reshape(shape)
