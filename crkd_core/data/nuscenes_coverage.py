"""How much of what the tables name is there: complete samples, and files by sensor."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.nuscenes_columns import Content


class Count(NamedTuple):
    """``there`` of the files that there should be, ``wanted``."""

    there: int
    wanted: int

    def __str__(self) -> str:
        return f"{self.there} of {self.wanted}"


def complete_rows(content: Content, present: NDArray[np.bool_], channels: Collection[str] | None) -> NDArray[np.bool_]:
    """(N,) bool: of these channels, the sample has the key frame files of all that measured in its scene.

    Scenes may differ in their sensors; but of each modality among ``channels`` one at least has measured.

    Args:
        content: the tables.
        present: (R,) which files are there.
        channels: names of those that count; None: all that have measured, of whatever modality.
    """
    there = (content.keys >= 0) & np.append(present, False)[content.keys]
    measured = _measured(content)
    if channels is None:
        return np.asarray((there | ~measured).all(axis=1))
    counted = np.isin(content.description.channels, list(channels))
    complete = (there | ~(measured & counted)).all(axis=1)
    modalities = np.array(content.description.modalities)
    for modality in np.unique(modalities[counted]):
        complete &= measured[:, counted & (modalities == modality)].any(axis=1)
    return np.asarray(complete)


def key_frames(content: Content, present: NDArray[np.bool_], samples: NDArray[np.int64], channel: int) -> Count:
    """Key frame files of a channel, and the samples in whose scene it measured."""
    rows = content.keys[samples, channel]
    return Count(int(present[rows[rows >= 0]].sum()), int(_measured(content)[samples, channel].sum()))


def window_rows(content: Content, samples: NDArray[np.int64], channel: int, window: range) -> NDArray[np.int64]:
    """Rows of the records that samples read of a channel, once for each time that they are read.

    Args:
        content: the tables.
        samples: (n,) positions.
        channel: position.
        window: which records, counted back from the key frame, which is 0; none beyond the start of a scene.
    """
    keys = content.keys[samples, channel].astype(np.int64)
    first = content.tracks[content.samples["scene"][samples].astype(np.int64) * content.keys.shape[1] + channel]
    rows = keys[:, None] - np.asarray(window, dtype=np.int64)
    found: NDArray[np.int64] = rows[(keys >= 0)[:, None] & (rows >= first[:, None])]
    return found


def file_counts(content: Content, present: NDArray[np.bool_]) -> dict[str, tuple[int, int, int, int]]:
    """Per channel: files present and records of the key frames, files present and records of the sweeps between."""
    channels = content.description.channels
    lengths = np.diff(content.tracks)
    channel = np.repeat(np.arange(len(lengths)) % max(1, len(channels)), lengths)
    key = content.records["is_key_frame"]
    counted = (key & present, key, ~key & present, ~key)
    counts = np.stack([np.bincount(channel[rows], minlength=len(channels)) for rows in counted], axis=1)
    rows = zip(channels, counts.tolist(), strict=True)
    return {name: (a, b, c, d) for name, (a, b, c, d) in rows if b + d}


def _measured(content: Content) -> NDArray[np.bool_]:
    """(N, C): whether a channel has any record in the sample's scene."""
    lengths = np.diff(content.tracks).reshape(len(content.description.scenes), len(content.description.channels))
    return np.asarray((lengths > 0)[content.samples["scene"]])
