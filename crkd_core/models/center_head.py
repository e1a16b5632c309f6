"""CenterHead: for each group of classes (task) a heat map per class and the maps that describe a box at its peak."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from crkd_core.config import HeadConfig
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


class TaskHead(nn.ModuleDict):
    """The branches of one task by the name of their map: two 3x3 convolutions each."""

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
        return TaskMaps(**{name: branch(shared) for name, branch in self.items()})
