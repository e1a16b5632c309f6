"""The kernel of image preparation, in Triton's interpreter or on a GPU, against torch (and, in runtime, Pillow)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crkd_core.ops.image_prepare import prepare_images, prepare_images_reference
from crkd_core.ops.resampling import Taps, resampled_lines

KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tables(
    sizes: list[tuple[int, int]], *, target: tuple[int, int], crop: tuple[int, int, int, int]
) -> tuple[Tensor, ...]:
    """Random images of these (height, width) resized to ``target``, and the crop (top, left, height, width)."""
    top, left, height, width = crop
    rng = np.random.default_rng(0)
    room = max(3 * h * w for h, w in sizes)
    pixels = torch.from_numpy(rng.integers(0, 256, (len(sizes), room), dtype=np.uint8))
    rows = [resampled_lines("bicubic", source=h, target=target[0], first=top, count=height) for h, _ in sizes]
    columns = [resampled_lines("bicubic", source=w, target=target[1], first=left, count=width) for _, w in sizes]

    def stacked(taps: list[Taps]) -> tuple[Tensor, Tensor]:
        most = max(t.weight.shape[1] for t in taps)
        padded = [t.padded(most) for t in taps]
        return torch.from_numpy(np.stack([t.start for t in padded])), torch.from_numpy(
            np.stack([t.weight for t in padded])
        )

    column, column_weight = stacked(columns)
    pitch = torch.tensor([3 * w for _, w in sizes], dtype=torch.int32)
    return pixels, pitch, *stacked(rows), column, column_weight.transpose(1, 2).contiguous()


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel_equals_torch(dtype: torch.dtype) -> None:
    from crkd_core.ops.kernels.image_prepare import launch_prepare_images

    arguments = tables([(20, 31), (40, 150)], target=(15, 141), crop=(-2, 3, 5, 131))
    expected = prepare_images_reference(*arguments)
    out = torch.full((2, 5, 131, 3), torch.nan, dtype=dtype, device=KERNEL_DEVICE).permute(0, 3, 1, 2)
    launch_prepare_images(*(x.to(KERNEL_DEVICE) for x in arguments), out)
    torch.testing.assert_close(out.cpu().float(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2e-3)
    black = expected[:, :, 0, 0]
    assert (expected[:, :, :2] == black[:, :, None, None]).all()  # rows above the image


@pytest.mark.kernels
def test_a_place_without_an_image_is_black() -> None:
    from crkd_core.ops.kernels.image_prepare import launch_prepare_images

    arguments = [torch.zeros_like(x) for x in tables([(8, 8)], target=(8, 8), crop=(0, 0, 8, 8))]
    arguments[0].fill_(200)
    out = torch.full((1, 8, 8, 3), torch.nan, device=KERNEL_DEVICE).permute(0, 3, 1, 2)
    launch_prepare_images(*(x.to(KERNEL_DEVICE) for x in arguments), out)
    torch.testing.assert_close(out.cpu(), prepare_images_reference(*arguments), rtol=0, atol=1e-6)
    assert (out < 0).all()


def test_no_image() -> None:
    arguments = [x[:0] for x in tables([(8, 8)], target=(8, 8), crop=(0, 0, 8, 8))]
    assert prepare_images(*arguments, torch.float32).shape == (0, 3, 8, 8)


def test_the_operator_is_what_compilers_expect() -> None:
    arguments = tables([(20, 31)], target=(15, 20), crop=(0, 3, 15, 16))
    torch.library.opcheck(prepare_images, (*arguments, torch.float32))


@pytest.mark.parametrize("kind", ["bicubic", "area", "linear"])
@pytest.mark.parametrize(("source", "target"), [(900, 432), (45, 67), (10, 10)])
def test_the_weights_of_every_line_add_up_to_one(kind: str, source: int, target: int) -> None:
    taps = resampled_lines(kind, source=source, target=target, first=-3, count=target + 5)  # type: ignore[arg-type]
    total = taps.weight.sum(1)
    assert not total[:3].any()
    assert not total[-2:].any()
    assert np.abs(total[3:-2] - 2**22).max() <= taps.weight.shape[1]
    assert taps.start[3:-2].min() >= 0
    assert taps.span() == (0, source)
