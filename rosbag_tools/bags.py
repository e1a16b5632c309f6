"""Reading and writing bags (rosbag2 folders, single ``.mcap`` or ``.db3`` files) without ROS, in plain terms."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import yaml
from rosbags.interfaces import (
    Connection,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.rosbag2.errors import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import TypesysError, get_types_from_msg
from rosbags.typesys.store import Typestore

from crkd_core.cli import UserError
from rosbag_tools.mcap_storage import BagFileWriter
from rosbag_tools.typestore import typestore

SUFFIX_OF = {"mcap": ".mcap", "sqlite3": ".db3"}
STORAGE_SUFFIXES = tuple(SUFFIX_OF.values())
_UNLIMITED = QosTime(9223372036, 854775807)


class BagError(UserError):
    """A bag that cannot be read or written; names its path and the reason."""


def _qos(depth: int, durability: QosDurability) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=durability,
        deadline=_UNLIMITED,
        lifespan=_UNLIMITED,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_UNLIMITED,
        avoid_ros_namespace_conventions=False,
    )


RELIABLE = _qos(10, QosDurability.VOLATILE)
"""Offered by most topics; serves best-effort subscribers as well."""
LATCHED = _qos(1, QosDurability.TRANSIENT_LOCAL)
"""Offered by /tf_static and the like: late subscribers still get the last message."""


@dataclass(frozen=True)
class Topic:
    """What a bag holds of one topic.

    Attributes:
        type: such as ``sensor_msgs/msg/PointCloud2``.
        count: messages.
        latched: offered as transient local.
    """

    type: str
    count: int
    latched: bool


@dataclass(frozen=True)
class BagMessage:
    """One recorded message.

    Attributes:
        topic: where it was published.
        type: its message type.
        stamp: when it was recorded, ns.
        message: deserialised, a rosbags message.
    """

    topic: str
    type: str
    stamp: int
    message: Any


class Bag:
    """An open bag; use ``open_bag``.

    Attributes:
        path: of the folder or file.
        topics: topic name -> what there is of it.
        start: stamp of the first message, ns.
        end: stamp of the last message, ns.
    """

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path = path
        self._reader = reader
        self._store: Typestore | None = None
        self.topics = {
            name: Topic(info.msgtype or "", info.msgcount, any(map(_is_latched, info.connections)))
            for name, info in sorted(reader.topics.items())
        }
        self.start = reader.start_time
        self.end = max(self.start, reader.end_time - 1)

    def has(self, topic: str) -> bool:
        """Whether there are messages on it."""
        return topic in self.topics and self.topics[topic].count > 0

    def connection(self, topic: str) -> Connection:
        """How a topic was recorded, the first time it was announced."""
        return next(c for c in self._reader.connections if c.topic == topic)

    def require(self, topics: Iterable[str]) -> None:
        """Check that these topics are there and hold messages.

        Raises:
            BagError: naming those that are missing or empty, and what the bag has.
        """
        missing = [name for name in topics if not self.has(name)]
        if missing:
            raise BagError(f"bag {self.path}: no message on {listed(missing)} (found {self._found(missing[0])})")

    def _found(self, wanted: str) -> str:
        """The topics with messages, those with names like ``wanted`` first."""
        found = [name for name, topic in self.topics.items() if topic.count]
        likeness = {name: SequenceMatcher(None, wanted, name).ratio() for name in found}
        return listed(sorted(found, key=lambda name: -likeness[name])) or "no message at all"

    def messages(
        self, topics: Iterable[str] = (), *, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """Deserialised messages in order of time; of one stamp, in the order they were written.

        Args:
            topics: only these, where the bag has them; none given: all.
            start: only messages at or after this stamp, ns.
            stop: only messages before this stamp, ns.

        Raises:
            BagError: a damaged bag or message, or a message type without definition.
        """
        for connection, stamp, data in self._raw(topics, start, stop):
            yield BagMessage(connection.topic, connection.msgtype, stamp, self._message(connection, data))

    def raw_messages(
        self, topics: Iterable[str] = (), *, start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """(topic, stamp, CDR bytes) of each message, otherwise as ``messages``.

        Raises:
            BagError: a damaged bag.
        """
        for connection, stamp, data in self._raw(topics, start, stop):
            yield connection.topic, stamp, data

    def _raw(
        self, topics: Iterable[str], start: int | None, stop: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = set(topics)
        connections = [c for c in self._reader.connections if not wanted or c.topic in wanted]
        if not connections:
            return
        with _damage_of(self.path):
            yield from self._reader.messages(connections, start=start, stop=stop)

    def store(self) -> Typestore:
        """The types of its messages, as far as they are known here or defined by the bag."""
        if self._store is None:
            self._store = _store_for(self._reader.connections)
        return self._store

    def _message(self, connection: Connection, data: bytes) -> Any:
        try:
            return self.store().deserialize_cdr(data, connection.msgtype)
        except KeyError:
            raise BagError(
                f"bag {self.path}: {connection.topic}: message type {connection.msgtype} is not known, "
                "and the bag does not define it"
            ) from None
        except SerdeError as error:
            raise BagError(f"bag {self.path}: {connection.topic}: damaged message: {error}") from None


@contextmanager
def open_bag(path: Path | str) -> Iterator[Bag]:
    """Open a bag for reading.

    Args:
        path: a rosbag2 folder (with ``metadata.yaml``), or a single ``.mcap`` or ``.db3`` file.

    Raises:
        BagError: no such path, not a bag, or a damaged one.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f"bag {path}: no such file or folder")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in STORAGE_SUFFIXES)
        hint = f"; did you mean {path / inside[0]}?" if inside else ""
        raise BagError(f"bag {path}: not a bag: no metadata.yaml in this folder{hint}")
    if path.is_file() and path.suffix not in STORAGE_SUFFIXES:
        raise BagError(f"bag {path}: not a bag: expected a folder, or a file ending in {' or '.join(STORAGE_SUFFIXES)}")
    with _damage_of(path):
        reader = Reader(path)
        reader.open()
    try:
        yield Bag(path, reader)
    finally:
        reader.close()


Storage = Literal["mcap", "sqlite3"]
Compression = Literal["none", "zstd"]


class BagWriter:
    """An open new bag; use ``new_bag``."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._connections: dict[str, Connection] = {}
        self._store = typestore()

    def add_topic(self, topic: str, msgtype: str, *, qos: Qos = RELIABLE) -> None:
        """Announce a topic before its first message.

        Args:
            topic: its name.
            msgtype: such as ``nav_msgs/msg/Odometry``.
            qos: what a player should offer.
        """
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=self._store, offered_qos_profiles=[qos]
        )

    def copy_topic(self, source: Bag, topic: str) -> None:
        """Announce a topic as another bag has it, whether its type is known here or not."""
        connection = source.connection(topic)
        store = source.store()
        known = connection.msgtype in store.fielddefs
        self._connections[topic] = self._writer.add_connection(
            topic,
            connection.msgtype,
            msgdef=connection.msgdef.data,
            rihs01=store.hash_rihs01(connection.msgtype) if known else connection.digest or "unknown",
            offered_qos_profiles=getattr(connection.ext, "offered_qos_profiles", None) or [RELIABLE],
        )

    def write(self, topic: str, stamp: int, message: Any) -> int:
        """Write a rosbags message at ``stamp`` (ns); returns its size in bytes."""
        connection = self._connections[topic]
        return self.write_raw(topic, stamp, self._store.serialize_cdr(message, connection.msgtype))

    def write_raw(self, topic: str, stamp: int, data: bytes | memoryview) -> int:
        """Write the CDR bytes of a message at ``stamp`` (ns); returns their number."""
        self._writer.write(self._connections[topic], stamp, data)
        return len(data)

    def note(self, key: str, value: str) -> None:
        """Say something in the bag's ``metadata.yaml`` (custom data); read it with ``note_of``."""
        self._writer.set_custom_data(key, value)


@contextmanager
def new_bag(
    out: Path | str, *, overwrite: bool = False, storage: Storage = "mcap", compression: Compression = "none"
) -> Iterator[BagWriter]:
    """Write a bag; it appears at ``out`` when the block ends without an error, and not before.

    Until then it is ``.<name>.partial`` beside it. What a killed process left there is removed by the next one.

    Args:
        out: a folder, or a path ending in ``.mcap`` or ``.db3`` for a single file.
        overwrite: replace a bag that is there.
        storage: ``mcap`` (chunks of a megabyte, indexed) or ``sqlite3``.
        compression: ``zstd``: of each chunk (mcap) or each message (sqlite3).

    Raises:
        BagError: ``out`` exists (or, with ``overwrite``, is not a bag), or cannot be written.
    """
    out = Path(out)
    check_can_write(out, overwrite=overwrite)
    single = out.suffix in STORAGE_SUFFIXES
    name = out.stem if single else out.name
    suffix = SUFFIX_OF[storage]
    if single and out.suffix != suffix:
        raise BagError(f"bag {out}: expected a folder, or a name ending in {suffix}, for storage {storage}")
    if single and storage == "sqlite3" and compression != "none":
        raise BagError(f"bag {out}: a compressed sqlite3 bag needs its metadata.yaml; write to a folder")
    mode = CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE
    with _partial_folder(out) as folder, _failure_of(out):
        # Version 8 is what every distribution from Humble on can play; 9 writes QoS in a way only Jazzy and later read.
        writer = BagFileWriter(folder / name, version=8, storage_plugin=StoragePlugin[storage.upper()])
        if compression == "zstd":
            writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            yield BagWriter(writer)
        finished = folder / name / f"{name}{suffix}" if single else folder / name
        if out.exists():
            check_can_write(out, overwrite=overwrite)
            out.rename(folder / "replaced")
        finished.rename(out)


@contextmanager
def _partial_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` for this process alone, gone at the end."""
    folder = out.with_name(f".{out.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BagError(f"bag {out}: cannot be written: {out.parent}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released with the process, however it ends
    except OSError:
        os.close(lock)
        raise BagError(f"bag {out}: another process is writing it ({folder})") from None
    try:
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def _failure_of(out: Path) -> Iterator[None]:
    """A disk that is full, or that cannot be written, as one kind of error."""
    try:
        yield
    except OSError as error:
        raise BagError(f"bag {out}: cannot be written: {error.strerror or error}; nothing of it is kept") from error
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        raise BagError(f"bag {out}: cannot be written: {error}; nothing of it is kept") from error


def note_of(path: Path, key: str) -> str | None:
    """What ``BagWriter.note`` said in a bag's folder; None: nothing, or no readable ``metadata.yaml``."""
    try:
        content = yaml.safe_load((path / "metadata.yaml").read_text(encoding="utf-8"))
        value = content["rosbag2_bagfile_information"]["custom_data"][key]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


def listed(names: Sequence[str], *, most: int = 6) -> str:
    """Names in one line of bearable length."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def check_can_write(out: Path, *, overwrite: bool) -> None:
    """Check that a bag may be written to ``out``, before any work is done.

    Raises:
        BagError: it exists and may not, or must not, be replaced.
    """
    if not out.exists():
        return
    if not overwrite:
        raise BagError(f"bag {out}: exists already; remove it, choose another --out, or give --overwrite")
    is_bag = out.suffix in STORAGE_SUFFIXES if out.is_file() else (out / "metadata.yaml").is_file()
    if not is_bag:
        raise BagError(f"bag {out}: exists and is not a bag; it is not overwritten, choose another --out")


def _is_latched(connection: Connection) -> bool:
    profiles = getattr(connection.ext, "offered_qos_profiles", ())
    return any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in profiles)


def _store_for(connections: Iterable[Connection]) -> Typestore:
    """Our type store, with the definitions of other types that the bag brings along."""
    known = typestore()
    unknown = [
        c for c in connections if c.msgtype not in known.types and c.msgdef.format == MessageDefinitionFormat.MSG
    ]
    if not unknown:
        return known
    store = Typestore()
    store.types.update(known.types)
    store.fielddefs.update(known.fielddefs)
    for connection in unknown:
        with suppress(TypesysError):  # it is reported as unknown if somebody reads that topic
            types = get_types_from_msg(connection.msgdef.data, connection.msgtype)
            store.register({name: fields for name, fields in types.items() if name not in store.types})
    return store


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """What the storage readers raise on a damaged file, as one kind of error."""
    try:
        yield
    except PermissionError:
        raise BagError(f"bag {path}: no permission to read it") from None
    except (
        ReaderError,
        OSError,
        EOFError,
        struct.error,
        AssertionError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ) as e:
        reason = " ".join(str(e).split()) or type(e).__name__  # a YAML parser speaks in several lines
        raise BagError(f"bag {path}: damaged or truncated: {reason}") from e
