"""The MCAP storage of rosbags, with chunks that reach the file without being copied together first.

Sensor data is large and comes as bytes; the library copies each message four times on its way to the file, which takes
longer than all else in a conversion. Format, index and summary stay the library's.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter, PendingChunk

CHUNK_BYTES = 1 << 20
_MOST_PARTS = os.sysconf("SC_IOV_MAX")

_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<BQHIQQ")
_CHUNK = struct.Struct("<QQQI")
_INDEX_ENTRY = struct.Struct("<QQ")
_OP_MESSAGE, _OP_CHUNK, _OP_MESSAGE_INDEX = 0x05, 0x06, 0x07


class ChunkedMcapWriter(McapWriter):
    """Collects the parts of a chunk, and hands them to the system as they are."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        """Add a message to the chunk."""
        self._take_definitions()
        chunk = self.chunk
        chunk.message_start_time = min(timestamp, chunk.message_start_time)
        chunk.message_end_time = max(timestamp, chunk.message_end_time)
        chunk.msgs[connection.id].append((timestamp, self._size))
        self.message_start_time = min(timestamp, self.message_start_time)
        self.message_end_time = max(timestamp, self.message_end_time)
        self.channel_stats[connection.id] += 1
        self._add(_MESSAGE.pack(_OP_MESSAGE, 22 + len(data), connection.id, 0, timestamp, timestamp))
        self._add(data)
        if self._size > CHUNK_BYTES:
            self.close_chunk()

    def close_chunk(self) -> None:
        """Write the chunk and its index."""
        self._take_definitions()
        chunk, size = self.chunk, self._size
        parts: Sequence[bytes | memoryview] = self._parts
        if self.compression:
            parts = [self.compressor(b"".join(parts))]
        stored, name = sum(map(len, parts)), self.compression.encode()
        start = self.bio.tell()
        head = _CHUNK.pack(chunk.message_start_time, chunk.message_end_time, size, 0)
        head += struct.pack("<I", len(name)) + name + struct.pack("<Q", stored)
        self._write_parts([_RECORD.pack(_OP_CHUNK, len(head) + stored), head, *parts])
        end = self.bio.tell()
        offsets = {}
        for connection, messages in chunk.msgs.items():
            offsets[connection] = self.bio.tell()
            entries = b"".join(_INDEX_ENTRY.pack(*message) for message in messages)
            self.bio.write(_RECORD.pack(_OP_MESSAGE_INDEX, 6 + len(entries)))
            self.bio.write(struct.pack("<HI", connection, len(entries)) + entries)
        # ... the chunk's entry in the summary
        entry = BytesIO()
        entry.write(struct.pack("<QQQQ", chunk.message_start_time, chunk.message_end_time, start, end - start))
        entry.write(struct.pack("<I", 10 * len(offsets)))
        entry.write(b"".join(struct.pack("<HQ", *offset) for offset in offsets.items()))
        entry.write(struct.pack("<QI", self.bio.tell() - end, len(name)) + name + struct.pack("<QQ", stored, size))
        self.chunks.append(entry)
        self._parts, self._size = [], 0
        self.chunk = PendingChunk(2**63 - 1, 0, BytesIO(), defaultdict(list))

    def close(self, version: int, metadata: str) -> None:
        """Write the last chunk and the summary."""
        self._take_definitions()
        if self._size:
            self.close_chunk()
        super().close(version, metadata)

    def _take_definitions(self) -> None:
        """Schemas and channels, which the library writes into the chunk, in their place between the messages."""
        if self.chunk.bio.tell():
            self._add(self.chunk.bio.getvalue())
            self.chunk.bio = BytesIO()

    def _add(self, part: bytes | memoryview) -> None:
        self._parts.append(part)
        self._size += len(part)

    def _write_parts(self, parts: list[bytes | memoryview]) -> None:
        self.bio.flush()
        file = self.bio.fileno()
        for first in range(0, len(parts), _MOST_PARTS):
            group = parts[first : first + _MOST_PARTS]
            left = sum(map(len, group)) - os.writev(file, group)
            if left:  # the disk is full, or a signal came: what is missing is written, or says why it cannot be
                self.bio.seek(0, os.SEEK_END)
                self.bio.write(b"".join(group)[-left:])
                self.bio.flush()
        self.bio.seek(0, os.SEEK_END)


class BagFileWriter(Writer):
    """The library's writer of bags, with this storage for MCAP."""

    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: ChunkedMcapWriter}  # noqa: RUF012  # as in the library
