"""CenterHead: for each group of classes (task) a heat map per class and the maps that describe a box at its peak."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crkd_core.config import HeadConfig
from crkd_core.models.branches import can_join, joined_branches
from crkd_core.models.necks import ConvNormReLU
from crkd_core.types import DETECTION_CLASSES

TASKS: tuple[tuple[str, ...], ...] = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
"""Classes that share box maps; in this order they are ``DETECTION_CLASSES``."""

assert tuple(name for task in TASKS for name in task) == DETECTION_CLASSES

TASK_FIRST_LABEL: tuple[int, ...] = tuple(DETECTION_CLASSES.index(task[0]) for task in TASKS)
"""Label of the first class of each task."""

TASK_OF_LABEL: tuple[int, ...] = tuple(t for t, task in enumerate(TASKS) for _ in task)
"""Position in ``TASKS`` of each of ``DETECTION_CLASSES``."""

BOX_MAPS: tuple[tuple[str, int], ...] = (("reg", 2), ("height", 1), ("dim", 3), ("rot", 2), ("vel", 2))
"""Box maps and their channels, in the order of the ten box codes."""


@dataclass(frozen=True)
class TaskMaps:
    """Raw outputs for one task, each (B, C, nx, ny), rows x, columns y.

    Attributes:
        reg: C = 2, position of the centre in its cell, x and y, cells.
        height: C = 1, z of the geometric centre, m.
        dim: C = 3, logarithm of width, length, height in m.
        rot: C = 2, sine and cosine of r (the original's yaw, see ``types.Boxes3D.from_mmdet3d``).
        vel: C = 2, m/s along the BEV frame's x and y.
        heatmap: C = classes of the task, logits.
    """

    reg: Tensor
    height: Tensor
    dim: Tensor
    rot: Tensor
    vel: Tensor
    heatmap: Tensor


@dataclass(frozen=True)
class JoinedMaps:
    """The maps of all tasks beside each other, as losses read them.

    Attributes:
        heatmap: (B, 10, nx, ny) float32: logits of all of ``DETECTION_CLASSES``.
        codes: (B, nx * ny, T, 10), the type of the maps: the box codes of every task in every cell.
    """

    heatmap: Tensor
    codes: Tensor


def joined_maps(tasks: Sequence[TaskMaps]) -> JoinedMaps:
    """The maps of all tasks, see ``JoinedMaps``."""
    heatmap = torch.cat([maps.heatmap for maps in tasks], dim=1).float()
    codes = torch.cat([getattr(maps, name) for maps in tasks for name, _ in BOX_MAPS], dim=1)
    cells = codes.flatten(2).transpose(1, 2)
    return JoinedMaps(heatmap, cells.reshape(*cells.shape[:2], len(tasks), -1))


class CenterHead(nn.Module):
    """A shared convolution, then two convolutions for each map of each task."""

    def __init__(self, in_channels: int, config: HeadConfig) -> None:
        super().__init__()
        self.shared = ConvNormReLU(in_channels, config.channels, 3)
        self.tasks = nn.ModuleList(TaskHead(config, len(task)) for task in TASKS)

    def forward(self, bev: Tensor) -> tuple[TaskMaps, ...]:
        """(B, in_channels, nx, ny) -> the raw maps of each task."""
        shared = self.shared(bev)
        return tuple(task(shared) for task in self.tasks)

    def heatmaps(self, bev: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The first half of ``forward``: the shared map (B, channels, nx, ny), and the heat map logits of each task.

        The box maps matter only at the peaks of the heat maps; ``codes_at`` computes them there.
        """
        shared = self.shared(bev)
        return shared, [task["heatmap"](shared) for task in self.tasks]  # type: ignore[index]

    def codes_at(self, task: int, shared: Tensor, sample: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The box maps of one task at K cells, equal to those of ``forward``: (K, 10) float32, see ``BOX_MAPS``.

        Args:
            task: its position in ``TASKS``.
            shared: (B, channels, nx, ny), see ``heatmaps``.
            sample: (K,) int64.
            row: (K,) int64, cell along x.
            column: (K,) int64, cell along y.
        """
        _, channels, nx, ny = shared.shape
        # A value depends on the 5 x 5 cells around it; beyond the border both convolutions see zeros.
        steps = torch.arange(5, device=shared.device)
        rows, columns = row[:, None] + steps, column[:, None] + steps
        cells = F.pad(shared, (2, 2, 2, 2)).permute(0, 2, 3, 1).reshape(-1, channels)
        index = (sample[:, None, None] * (nx + 4) + rows[:, :, None]) * (ny + 4) + columns[:, None]
        patches = cells[index].permute(0, 3, 1, 2)
        inner_rows, inner_columns = rows[:, 1:4] - 2, columns[:, 1:4] - 2
        inside = ((inner_rows >= 0) & (inner_rows < nx))[:, :, None] & ((inner_columns >= 0) & (inner_columns < ny))[
            :, None
        ]
        codes = []
        for name, _ in BOX_MAPS:
            first, last = self.tasks[task][name]  # type: ignore[index]
            middle = first.relu(first.bn(F.conv2d(patches, first.conv.weight, first.conv.bias)))
            value = F.conv2d(torch.where(inside[:, None], middle, 0.0), last.weight, last.bias)
            codes.append(value.flatten(1))
        return torch.cat(codes, dim=1).float()


class TaskHead(nn.ModuleDict):
    """The branches of one task by the name of their map: two 3x3 convolutions each.

    A GPU computes them beside each other: six branches are many small kernels, each of which has to be asked for.
    """

    def __init__(self, config: HeadConfig, classes: int) -> None:
        branches = OrderedDict()
        for name, channels in (*BOX_MAPS, ("heatmap", classes)):
            last = nn.Conv2d(config.channels, channels, 3, padding=1)
            if name == "heatmap" and config.heatmap_bias is not None:
                assert last.bias is not None
                nn.init.constant_(last.bias, config.heatmap_bias)
            branches[name] = nn.Sequential(ConvNormReLU(config.channels, config.channels, 3), last)
        super().__init__(branches)

    def forward(self, shared: Tensor) -> TaskMaps:
        """(B, channels, nx, ny) -> raw maps."""
        if shared.is_cuda and can_join(self.values()):
            return TaskMaps(**dict(zip(self, joined_branches(self.values(), shared), strict=True)))
        return self.one_by_one(shared)

    def one_by_one(self, shared: Tensor) -> TaskMaps:
        """As ``forward``, each branch for itself, as the original asks for them."""
        return TaskMaps(**{name: branch(shared) for name, branch in self.items()})
