"""Kernels of ``crkd_core.ops.bev_pool``. Sums are float32; every sum has one fixed order.

Forward, in two steps. The points of one image column at one depth lie nearly above each other, so that most of a column
falls into one cell: ``sum_runs`` adds such runs of rows as a matrix product (bins x rows) (rows x channels), with the
softmax over depth on the way, and ``sum_cells`` adds the few runs of each cell. Each feature is read once, and what is
stored between the steps is one row for each of about 20 points.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crkd_core.ops.bev_pool import CONTINUES

_CONTINUES = tl.constexpr(CONTINUES)

_CELLS, _RUNS = 4, 4
"""Cells of one program of ``sum_cells``, and runs of each that it reads at once."""
_ROWS = 8
"""Rows of an image column that one program of the backward kernel takes, so that it finds the gradient in its cache."""

_GRADIENTS = 16
"""Channels that it takes at once."""


def forward(
    per_pixel: Tensor, roles: Tensor, order: Tensor, starts: Tensor, *, channels: int, max_partial: int
) -> Tensor:
    """(num_cells, channels), see ``ops.bev_pool.bev_pool``; ``max_partial`` runs have their sum stored in between."""
    images, columns, bins, rows = roles.shape
    num_cells, device = len(starts) - 1, per_pixel.device
    pooled = torch.empty(num_cells, channels, dtype=per_pixel.dtype, device=device)
    partial = torch.empty(max_partial, channels, dtype=torch.float32, device=device)
    log_norm = torch.empty(images * columns * rows, dtype=torch.float32, device=device)
    block_rows = max(16, triton.next_power_of_2(rows))
    block_channels = max(16, triton.next_power_of_2(channels))
    sum_runs[(images * columns,)](
        per_pixel,
        roles,
        partial,
        log_norm,
        *per_pixel.stride(),
        columns,
        rows,
        bins,
        channels,
        max_partial,
        BLOCK_ROWS=block_rows,
        BLOCK_BINS=max(16, triton.next_power_of_2(bins)),
        BLOCK_CHANNELS=block_channels,
        PRECISION="ieee" if per_pixel.dtype == torch.float32 else "tf32",
        num_warps=4,
    )
    sum_cells[(triton.cdiv(num_cells, _CELLS),)](
        per_pixel,
        roles,
        order,
        starts,
        partial,
        log_norm,
        pooled,
        *per_pixel.stride(),
        columns,
        rows,
        bins,
        channels,
        max_partial,
        num_cells,
        BLOCK_ROWS=block_rows,
        BLOCK_CHANNELS=block_channels,
        BLOCK_CELLS=_CELLS,
        BLOCK_RUNS=_RUNS,
        num_warps=1,
    )
    return pooled


def backward(grad: Tensor, per_pixel: Tensor, cells: Tensor) -> Tensor:
    """The gradient of ``per_pixel``, in its layout; ``grad`` is (num_cells, channels) and contiguous."""
    images, columns, bins, rows = cells.shape
    result = torch.empty_like(per_pixel)
    gather_gradients[(images * columns, triton.cdiv(rows, _ROWS))](
        grad,
        per_pixel,
        cells,
        result,
        *per_pixel.stride(),
        *result.stride(),
        columns,
        rows,
        bins,
        grad.shape[1],
        ROWS=_ROWS,
        BLOCK_BINS=triton.next_power_of_2(bins),
        BLOCK_CHANNELS=_GRADIENTS,
        num_warps=1,
    )
    return result


@triton.jit
def sum_runs(
    per_pixel,
    roles,
    partial,
    log_norm,
    stride_image,
    stride_channel,
    stride_row,
    stride_column,
    columns,
    rows,
    bins,
    channels,
    max_partial,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One image column: the sum of each run of rows, to the row of ``partial`` of its rank."""
    image_column = tl.program_id(0)
    v, d, c = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_BINS), tl.arange(0, BLOCK_CHANNELS)
    base = per_pixel + (image_column // columns).to(tl.int64) * stride_image + (image_column % columns) * stride_column
    pixel = base + v * stride_row
    valid = (d[:, None] < bins) & (v[None, :] < rows)

    logits = tl.load(pixel[None, :] + d[:, None] * stride_channel, mask=valid, other=float("-inf")).to(tl.float32)
    logits = tl.where(v[None, :] < rows, logits, 0.0)
    top = tl.max(logits, axis=0)
    norm = top + tl.log(tl.sum(tl.exp(logits - top[None, :]), axis=0))
    depth = tl.exp(logits - norm[None, :])
    tl.store(log_norm + image_column * rows + v, norm, mask=v < rows)
    context_at = pixel[:, None] + (bins + c)[None, :] * stride_channel
    context = tl.load(context_at, mask=(v[:, None] < rows) & (c[None, :] < channels), other=0.0).to(tl.float32)

    point = (image_column * bins + d[:, None]) * rows + v[None, :]
    role = tl.load(roles + point, mask=valid, other=_CONTINUES - 1)
    run = tl.cumsum((role >= 0).to(tl.int32), axis=1) - 1  # number of the run within its bin
    for k in range(tl.max(tl.max(run, axis=1), axis=0) + 1):
        weights = tl.where((run == k) & (role >= _CONTINUES), depth, 0.0)
        sums = tl.dot(weights, context, input_precision=PRECISION)
        rank = tl.max(tl.where(run == k, role, -1), axis=1)
        stored = (rank >= 0) & (rank < max_partial)
        row = partial + rank.to(tl.int64) * channels
        tl.store(row[:, None] + c[None, :], sums, mask=stored[:, None] & (c[None, :] < channels))


@triton.jit
def sum_cells(
    per_pixel,
    roles,
    order,
    starts,
    partial,
    log_norm,
    pooled,
    stride_image,
    stride_channel,
    stride_row,
    stride_column,
    columns,
    rows,
    bins,
    channels,
    max_partial,
    num_cells,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    BLOCK_RUNS: tl.constexpr,
):
    """Some cells: the sums of their runs. Those beyond ``max_partial`` are summed here from the image."""
    block, c = tl.program_id(0) * BLOCK_CELLS, tl.arange(0, BLOCK_CHANNELS)
    cell = block + tl.arange(0, BLOCK_CELLS)
    first = tl.load(starts + cell, mask=cell < num_cells, other=0)
    end = tl.load(starts + cell + 1, mask=cell < num_cells, other=0)
    total = tl.zeros([BLOCK_CELLS, BLOCK_CHANNELS], tl.float32)

    stored_end = tl.minimum(end, max_partial)
    for begin in range(0, tl.max(stored_end - first, axis=0), BLOCK_RUNS):
        run = (first + begin)[:, None] + tl.arange(0, BLOCK_RUNS)[None, :]
        mask = (run < stored_end[:, None])[:, :, None] & (c < channels)[None, None, :]
        total += tl.sum(tl.load(partial + run[:, :, None] * channels + c[None, None, :], mask=mask, other=0.0), axis=1)

    # The runs of consecutive cells are consecutive.
    block_end = tl.load(starts + tl.minimum(block + BLOCK_CELLS, num_cells))
    v = tl.arange(0, BLOCK_ROWS)
    for run in range(tl.maximum(tl.load(starts + block), max_partial), block_end):
        point = tl.load(order + run)
        row, bin_column = point % rows, point // rows
        image_column, d = bin_column // bins, bin_column % bins
        role = tl.load(roles + bin_column * rows + v, mask=v < rows, other=_CONTINUES - 1)
        stop = tl.min(tl.where((v > row) & (role != _CONTINUES), v, rows), axis=0)
        member = (v >= row) & (v < stop)
        base = per_pixel + (image_column // columns) * stride_image + (image_column % columns) * stride_column
        pixel = base + v * stride_row
        norm = tl.load(log_norm + image_column * rows + v, mask=member, other=0.0)
        logit = tl.load(pixel + d * stride_channel, mask=member, other=float("-inf")).to(tl.float32)
        context_at = pixel[:, None] + (bins + c)[None, :] * stride_channel
        context = tl.load(context_at, mask=member[:, None] & (c[None, :] < channels), other=0.0).to(tl.float32)
        of_run = tl.sum(tl.exp(logit - norm)[:, None] * context, axis=0)
        total += tl.where((run >= first) & (run < end), 1.0, 0.0)[:, None] * of_run[None, :]

    target = pooled + cell.to(tl.int64)[:, None] * channels + c[None, :]
    mask = (cell < num_cells)[:, None] & (c < channels)[None, :]
    tl.store(target, total.to(pooled.dtype.element_ty), mask=mask)


@triton.jit
def gather_gradients(
    grad,
    per_pixel,
    cells,
    result,
    stride_image,
    stride_channel,
    stride_row,
    stride_column,
    result_stride_image,
    result_stride_channel,
    result_stride_row,
    result_stride_column,
    columns,
    rows,
    bins,
    channels,
    ROWS: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Some rows of an image column: each pixel gathers the gradients of the cells on its ray."""
    image_column = tl.program_id(0)
    image, column = (image_column // columns).to(tl.int64), image_column % columns
    d = tl.arange(0, BLOCK_BINS)
    dtype = result.dtype.element_ty
    begin = tl.program_id(1) * ROWS
    for v in range(begin, tl.minimum(begin + ROWS, rows)):
        pixel = per_pixel + image * stride_image + column * stride_column + v * stride_row
        out = result + image * result_stride_image + column * result_stride_column + v * result_stride_row
        logits = tl.load(pixel + d * stride_channel, mask=d < bins, other=float("-inf")).to(tl.float32)
        raised = tl.exp(logits - tl.max(logits, axis=0))
        depth = raised / tl.sum(raised, axis=0)
        cell = tl.load(cells + (image_column * bins + d) * rows + v, mask=d < bins, other=-1)
        row = grad + cell.to(tl.int64) * channels

        grad_depth = tl.zeros([BLOCK_BINS], tl.float32)
        for first in range(0, channels, BLOCK_CHANNELS):
            c = first + tl.arange(0, BLOCK_CHANNELS)
            context = tl.load(pixel + (bins + c) * stride_channel, mask=c < channels, other=0.0).to(tl.float32)
            inside = (cell >= 0)[:, None] & (c < channels)[None, :]
            values = tl.load(row[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
            grad_depth += tl.sum(values * context[None, :], axis=1)
            grad_context = tl.sum(values * depth[:, None], axis=0)
            tl.store(out + (bins + c) * result_stride_channel, grad_context.to(dtype), mask=c < channels)
        grad_logits = depth * (grad_depth - tl.sum(depth * grad_depth, axis=0))
        tl.store(out + d * result_stride_channel, grad_logits.to(dtype), mask=d < bins)
