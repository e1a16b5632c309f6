"""Camera images on the GPU: full-size 8-bit frames to network input in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from crkd_core.ops.resampling import GAIN, OFFSET, PRECISION_BITS


@torch.library.custom_op("crkd::prepare_images", mutates_args=())
def prepare_images(
    pixels: Tensor,  # [M, N]
    pitch: Tensor,  # [M]
    row: Tensor,  # [M, H]
    row_weight: Tensor,  # [M, H, KY]
    column: Tensor,  # [M, W]
    column_weight: Tensor,  # [M, KX, W]
    dtype: torch.dtype,
) -> Tensor:
    """Resample, crop and normalise images of different sizes to one size, see ``resampling``.

    Args:
        pixels: (M, N) uint8, the RGB rows that the crop needs of each image, then anything.
        pitch: (M,) int32, bytes per row.
        row: (M, H) int32, ``Taps.start`` of the rows, counted from the first row in ``pixels``.
        row_weight: (M, H, KY) int32, ``Taps.weight``.
        column: (M, W) int32, ``Taps.start`` of the columns.
        column_weight: (M, KX, W) int32, ``Taps.weight`` transposed. All weights 0: a black image, whatever ``pixels``.
        dtype: of the result.

    Returns:
        (M, 3, H, W) in channels-last memory, ImageNet-normalised. On CUDA one Triton kernel, elsewhere torch; both
        exactly Pillow's arithmetic.
    """
    images, height, width = len(pixels), row.shape[1], column.shape[1]
    out = torch.empty((images, height, width, 3), dtype=dtype, device=pixels.device).permute(0, 3, 1, 2)
    if pixels.device.type == "cuda":
        from crkd_core.ops.kernels.image_prepare import launch_prepare_images

        launch_prepare_images(pixels, pitch, row, row_weight, column, column_weight, out)
        return out
    return out.copy_(prepare_images_reference(pixels, pitch, row, row_weight, column, column_weight))


@prepare_images.register_fake
def _(
    pixels: Tensor,
    pitch: Tensor,
    row: Tensor,
    row_weight: Tensor,
    column: Tensor,
    column_weight: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    shape = (pixels.shape[0], row.shape[1], column.shape[1], 3)
    return pixels.new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)


def prepare_images_reference(
    pixels: Tensor, pitch: Tensor, row: Tensor, row_weight: Tensor, column: Tensor, column_weight: Tensor
) -> Tensor:
    """What ``prepare_images`` computes, image by image, in float32."""
    images = []
    for i, line in enumerate(pitch.tolist()):
        rows = len(pixels[i]) // line if line else 0
        if rows == 0:
            images.append(torch.zeros(3, row.shape[1], column.shape[1], device=pixels.device))
            continue
        source = pixels[i, : rows * line].view(rows, line // 3, 3).int()
        across = _weighted(source, column[i], column_weight[i], dim=1)
        images.append(_weighted(across, row[i], row_weight[i].T, dim=0).permute(2, 0, 1).float())
    levels = torch.stack(images) if images else pixels.new_zeros((0, 3, row.shape[1], column.shape[1])).float()
    return levels * levels.new_tensor(GAIN)[:, None, None] - levels.new_tensor(OFFSET)[:, None, None]


def _weighted(lines: Tensor, start: Tensor, weight: Tensor, *, dim: int) -> Tensor:
    """Grey levels of the lines (along ``dim``) that the taps make."""
    shape = [1, 1, 1]
    shape[dim] = -1
    total = torch.zeros((), dtype=torch.int32, device=lines.device)
    for step, w in enumerate(weight):
        at = (start + step).clamp(max=lines.shape[dim] - 1).long()
        total = total + lines.index_select(dim, at) * w.view(shape)
    return ((total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255)
