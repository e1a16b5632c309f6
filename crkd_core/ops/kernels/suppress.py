"""Triton kernels of greedy suppression: which boxes are near each other, then who of them stays."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 8
_COLUMNS = 32


def launch_suppress(
    boxes: Tensor, valid: Tensor, squared_distance: Tensor, iou_threshold: float, max_kept: int
) -> Tensor:
    """The kernels behind ``ops.suppress.suppress``; same arguments and result."""
    groups, count, _ = boxes.shape
    padded = max(_COLUMNS, -(-count // _COLUMNS) * _COLUMNS)
    words = triton.next_power_of_2(padded // 32)
    kept = torch.full((groups, max_kept), -1, dtype=torch.int64, device=boxes.device)
    if groups == 0 or count == 0:
        return kept
    # In float64 as the reference, relative to nothing: the kernel subtracts centres before it multiplies.
    wide = boxes.double()
    r = wide[..., 4]
    shapes = torch.stack(
        [wide[..., 0], wide[..., 1], 0.5 * wide[..., 2], 0.5 * wide[..., 3], r.cos(), r.sin()]
    ).contiguous()
    alive = valid.to(torch.int8).contiguous()
    near = torch.empty(groups, padded, words, dtype=torch.int32, device=boxes.device)
    tiles = (groups, padded // _ROWS, padded // _COLUMNS)
    _near_kernel[tiles](
        shapes, alive, squared_distance.double(), near, iou_threshold, groups * count, count, padded, words,
        ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=4,
    )  # fmt: skip
    _greedy_kernel[(groups,)](
        near, alive, kept, count, padded, max_kept, padded // 32, WORDS=words, num_warps=1,
    )  # fmt: skip
    return kept


@triton.jit
def _clipped(p, d, half):
    """Where the point p + t d enters and leaves the slab of +- half."""
    inverse = 1.0 / tl.where(tl.abs(d) < 1e-30, 1e-30, d)
    a = (-half - p) * inverse
    b = (half - p) * inverse
    return tl.minimum(a, b), tl.maximum(a, b)


@triton.jit
def _inside_share(pw, pl, dw, dl, half_w, half_l):
    """The part of the segment from (pw, pl) along (dw, dl) that lies in the rectangle of these half edges."""
    enter_w, leave_w = _clipped(pw, dw, half_w)
    enter_l, leave_l = _clipped(pl, dl, half_l)
    enter = tl.maximum(tl.maximum(enter_w, enter_l), 0.0)
    leave = tl.minimum(tl.minimum(leave_w, leave_l), 1.0)
    return tl.maximum(leave - enter, 0.0)


@triton.jit
def _common_area(ax, ay, aw, al, ac, as_, bx, by, bw, bl, bc, bs):
    """Area common to two rectangles: Green's theorem over the edges of each inside the other.

    Edges that lie on each other would count twice; the second rectangle is therefore grown, the first one shrunk, by a
    ten-millionth of a metre when edges are clipped.
    """
    x, y = bx - ax, by - ay
    area = tl.zeros_like(x + aw)
    # The other's centre and axes, in the frame of each.
    b_in_a_w, b_in_a_l = x * ac - y * as_, x * as_ + y * ac
    a_in_b_w, a_in_b_l = -(x * bc - y * bs), -(x * bs + y * bc)
    cos, sin = ac * bc + as_ * bs, bs * ac - bc * as_  # of r_b - r_a
    for edge in tl.static_range(4):
        # From corner (sw, sl) counter-clockwise to the next one.
        if edge == 0:
            sw, sl, ew, el = 1.0, 1.0, -2.0, 0.0
        elif edge == 1:
            sw, sl, ew, el = -1.0, 1.0, 0.0, -2.0
        elif edge == 2:
            sw, sl, ew, el = -1.0, -1.0, 2.0, 0.0
        else:
            sw, sl, ew, el = 1.0, -1.0, 0.0, 2.0
        # Edge of a, seen from b.
        pw, pl, dw, dl = sw * aw, sl * al, ew * aw, el * al
        share = _inside_share(
            a_in_b_w + pw * cos - pl * sin, a_in_b_l + pw * sin + pl * cos,
            dw * cos - dl * sin, dw * sin + dl * cos, bw + 1e-7, bl + 1e-7,
        )  # fmt: skip
        area += share * (aw * al)
        # Edge of b, seen from a; half of the cross product of its ends about a's centre.
        pw, pl, dw, dl = sw * bw, sl * bl, ew * bw, el * bl
        qw, ql = b_in_a_w + pw * cos + pl * sin, b_in_a_l - pw * sin + pl * cos
        vw, vl = dw * cos + dl * sin, -dw * sin + dl * cos
        share = _inside_share(qw, ql, vw, vl, aw - 1e-7, al - 1e-7)
        area += share * 0.5 * (qw * vl - ql * vw)
    return tl.maximum(area, 0.0)


@triton.jit
def _near_kernel(
    shapes, alive, squared_distance, near, iou_threshold, field, count, padded, words,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of bits: row box i drops column box j (j after i)."""
    group = tl.program_id(0)
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    word = tl.program_id(2) * (COLUMNS // 32) + tl.arange(0, COLUMNS // 32)
    valid_i = tl.load(alive + group * count + i, mask=i < count, other=0)
    valid_j = tl.load(alive + group * count + j, mask=j < count, other=0)
    pair = (valid_i[:, None] != 0) & (valid_j[None, :] != 0) & (j[None, :] > i[:, None])
    bits = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    if tl.max(tl.max(pair.to(tl.int32), axis=1), axis=0) > 0:
        at_i, at_j = group * count + i, group * count + j
        in_i, in_j = i < count, j < count
        ax = tl.load(shapes + at_i, mask=in_i, other=0.0)[:, None]
        ay = tl.load(shapes + field + at_i, mask=in_i, other=0.0)[:, None]
        bx = tl.load(shapes + at_j, mask=in_j, other=0.0)[None, :]
        by = tl.load(shapes + field + at_j, mask=in_j, other=0.0)[None, :]
        distance = (bx - ax) * (bx - ax) + (by - ay) * (by - ay)
        radius = tl.load(squared_distance + group)
        if radius > 0:
            bits = (pair & (distance <= radius)).to(tl.int32)
        else:
            aw = tl.load(shapes + 2 * field + at_i, mask=in_i, other=0.0)[:, None]
            al = tl.load(shapes + 3 * field + at_i, mask=in_i, other=0.0)[:, None]
            bw = tl.load(shapes + 2 * field + at_j, mask=in_j, other=0.0)[None, :]
            bl = tl.load(shapes + 3 * field + at_j, mask=in_j, other=0.0)[None, :]
            reach_a, reach_b = tl.sqrt(aw * aw + al * al), tl.sqrt(bw * bw + bl * bl)
            pair = pair & (distance <= (reach_a + reach_b) * (reach_a + reach_b))
            if tl.max(tl.max(pair.to(tl.int32), axis=1), axis=0) > 0:
                ac = tl.load(shapes + 4 * field + at_i, mask=in_i, other=1.0)[:, None]
                as_ = tl.load(shapes + 5 * field + at_i, mask=in_i, other=0.0)[:, None]
                bc = tl.load(shapes + 4 * field + at_j, mask=in_j, other=1.0)[None, :]
                bs = tl.load(shapes + 5 * field + at_j, mask=in_j, other=0.0)[None, :]
                common = _common_area(ax, ay, aw, al, ac, as_, bx, by, bw, bl, bc, bs)
                either = tl.maximum(4 * aw * al + 4 * bw * bl - common, 1e-12)
                bits = (pair & (common > iou_threshold * either)).to(tl.int32)
    shifted = tl.reshape(bits, (ROWS, COLUMNS // 32, 32)) << tl.arange(0, 32)[None, None, :]
    packed = tl.sum(shifted, axis=2)
    tl.store(near + (group * padded + i[:, None]) * words + word[None, :], packed)


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _greedy_kernel(near, alive, kept, count, padded, max_kept, chunks, WORDS: tl.constexpr):
    """Boxes 32 by 32: decide within a chunk one after the other, then drop what its kept boxes drop."""
    group = tl.program_id(0)
    lane, word = tl.arange(0, 32), tl.arange(0, WORDS)
    rows = near + group * padded * WORDS
    dropped = tl.zeros((WORDS,), dtype=tl.int32)
    total = tl.sum(tl.zeros((32,), dtype=tl.int32), axis=0)
    for chunk in range(chunks):
        at = chunk * 32 + lane
        valid = tl.load(alive + group * count + at, mask=at < count, other=0).to(tl.int32)
        candidates = tl.sum(valid << lane, axis=0)
        candidates = candidates & ~tl.sum(tl.where(word == chunk, dropped, 0), axis=0)
        stay = candidates & 0
        for i in tl.static_range(32):
            drops = tl.load(rows + (chunk * 32 + i) * WORDS + chunk)
            bit = (candidates >> i) & 1 & (total < max_kept).to(tl.int32)
            stay = stay | (bit << i)
            candidates = candidates & ~(drops * bit)
            total += bit
        stays = (stay >> lane) & 1
        before = total - tl.sum(stays, axis=0)
        place = before + tl.cumsum(stays, axis=0) - stays
        tl.store(kept + group * max_kept + place, at.to(tl.int64), mask=stays != 0)
        # Words past the last chunk were never written; those bits are never read either.
        used = word[None, :] < chunks
        tile = tl.load(rows + at[:, None] * WORDS + word[None, :], mask=used & (stays[:, None] != 0), other=0)
        dropped = dropped | tl.reduce(tile, 0, _either)
