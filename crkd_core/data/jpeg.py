"""What the bytes of a JPEG image tell without decoding: its size, and damage, in a hundredth of the time.

A decoder fills what it cannot read with grey, or goes on with wrong colours, and says nothing. Markers are those of
ITU-T T.81, Annex B.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_SOI, _EOI, _SOS, _DHT = 0xD8, 0xD9, 0xDA, 0xC4
_SEQUENTIAL_HUFFMAN = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
"""Codes of the segment that tells an image's size, one for each way of coding."""
_RESTARTS = range(0xD0, 0xD8)
_FILL = 0xFF
_PADDING = 256  # bytes; cameras may pad the file after its end marker
_ZEROS = bytes(64)


class _Scan(NamedTuple):
    """The only scan of a sequential image: where its data begins, and what a run of zero bits stands for."""

    start: int
    zeros_are_flat: bool


def jpeg_damage(encoded: bytes) -> str | None:
    """What is seen to be wrong with a JPEG image; None: nothing, or it is of another format.

    Noticed are a missing end, bytes that cannot be image data (of random ones, one in 270), and 64 zero bytes in a row
    where these would be a picture that no camera takes. What is not: changed bytes that could be image data; zeros in
    a file whose code for "the rest of the block is flat" has zero bits only; damage in a progressive image.
    """
    if encoded[:2] != bytes((_FILL, _SOI)):
        return None
    if bytes((_FILL, _EOI)) not in encoded[-_PADDING:]:
        return f"truncated JPEG image ({len(encoded)} bytes, no end marker)"
    scan = _scan(encoded)
    if scan is None:
        return None
    body = np.frombuffer(encoded, dtype=np.uint8, offset=scan.start)
    markers = (body[:-1] == _FILL) & (body[1:] != 0)
    place = int(markers.argmax())
    if body[place + 1] != _EOI:
        places = np.flatnonzero(markers)
        codes = body[places + 1]
        others = places[(codes != _FILL) & ~((codes >= _RESTARTS.start) & (codes < _RESTARTS.stop))]
        if len(others) == 0:
            return f"truncated JPEG image ({len(encoded)} bytes, no end marker after the image data)"
        place = int(others[0])
    if body[place + 1] != _EOI:
        return f"damaged JPEG image ({len(encoded)} bytes, broken at byte {scan.start + place})"
    zeros = -1 if scan.zeros_are_flat else encoded.find(_ZEROS, scan.start, scan.start + place)
    return None if zeros < 0 else f"damaged JPEG image ({len(encoded)} bytes, zeros from byte {zeros} on)"


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG image by its header; None: another format, or not to be understood."""
    if encoded[:2] != bytes((_FILL, _SOI)):
        return None
    for code, content, _ in _segments(encoded):
        if code in _FRAMES and len(content) > 4:
            height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            return (width, height) if width and height else None
    return None


def _scan(encoded: bytes) -> _Scan | None:
    """The segments up to the image data; None: several scans, another coding, or not to be understood."""
    components, zeros_are_flat = 0, False
    for code, content, end in _segments(encoded):
        if code == _DHT:
            zeros_are_flat |= _ends_block_by_zeros(content)
        elif code in _SEQUENTIAL_HUFFMAN and len(content) > 5:
            components = content[5]
        elif code == _SOS:
            alone = len(content) > 0 and content[0] == components
            return _Scan(end, zeros_are_flat) if alone and end + 1 < len(encoded) else None
    return None


def _segments(encoded: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker code, content and end of each segment, up to what is no segment."""
    place = 2
    while place + 4 <= len(encoded) and encoded[place] == _FILL:
        code = encoded[place + 1]
        if code == _FILL:
            place += 1
            continue
        end = place + 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
        yield code, encoded[place + 4 : end], end
        place = end


def _ends_block_by_zeros(tables: bytes) -> bool:
    """Whether the code of zero bits in AC table 0, that of brightness, means "end of block"."""
    place = 0
    while place + 17 < len(tables):
        if tables[place] == 0x10:
            return tables[place + 17] == 0x00
        place += 17 + sum(tables[place + 1 : place + 17])
    return False
