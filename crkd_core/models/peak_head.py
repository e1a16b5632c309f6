"""The CenterHead with fixed shapes: heat maps of all tasks at once, box codes only at their highest cells, boxes.

What a GPU runs inside a CUDA graph: the number of peaks never decides a shape, so nothing waits for the host. It
computes what ``decode`` does, with the suppression of ``ops.suppress``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crkd_core.config import HeadConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.branches import block_diagonal, side_by_side
from crkd_core.models.center_head import BOX_MAPS, TASK_FIRST_LABEL, TASKS, CenterHead
from crkd_core.models.decode import CIRCLE_SQUARED_DISTANCE, IOU_THRESHOLD, NMS_SIZE_SCALE, Z_LIMIT
from crkd_core.ops.suppress import suppress

CODES = sum(channels for _, channels in BOX_MAPS)
FIELDS = 11
"""Columns of a result: the nine of ``Decoded.boxes``, score, label."""


class PeakHead(nn.Module):
    """A trained head, its branches side by side in few large operations."""

    heat_rows: Tensor
    first_label: Tensor
    squared_distance: Tensor
    size_scale: Tensor
    lower: Tensor
    cell: Tensor

    def __init__(self, head: CenterHead, grid: BevGrid, config: HeadConfig) -> None:
        """Rearrange a head.

        Args:
            head: with batch norm folded away, see ``folding.folded``.
            grid: the cells of its maps.
            config: limits.
        """
        super().__init__()
        self.config = config
        self.grid = grid
        self.shared = head.shared
        heat = [task["heatmap"] for task in head.tasks]  # type: ignore[index]
        channels = heat[0][1].in_channels
        self.heat_first = _conv(*side_by_side([branch[0].conv for branch in heat]))
        self.heat_last = _conv(*block_diagonal([branch[1] for branch in heat]))
        boxes = [[task[name] for name, _ in BOX_MAPS] for task in head.tasks]  # type: ignore[index]
        first = [[_rows(branch[0].conv) for branch in task] for task in boxes]
        self.box_first = _stack(torch.cat(task, dim=1) for task in first)  # (T, 9 C, 5 C)
        self.box_first_bias = _stack(torch.cat([b[0].conv.bias for b in task])[None] for task in boxes)
        self.box_last = _stack(_last_rows([b[1] for b in task], channels) for task in boxes)  # (T, 9 * 5 C, 10)
        self.box_last_bias = _stack(torch.cat([b[1].bias for b in task])[None] for task in boxes)
        self._constants(channels)

    def _constants(self, channels: int) -> None:
        classes = [len(task) for task in TASKS]
        rows = torch.full((len(TASKS), max(classes)), sum(classes))  # one row past the last: never a peak
        scale = torch.ones(len(TASKS), max(classes))
        for task, (count, first) in enumerate(zip(classes, TASK_FIRST_LABEL, strict=True)):
            rows[task, :count] = torch.arange(first, first + count)
            scale[task, :count] = torch.tensor(NMS_SIZE_SCALE[task])
        self.channels = channels
        self.register_buffer("heat_rows", rows.flatten(), persistent=False)
        self.register_buffer("first_label", torch.tensor(TASK_FIRST_LABEL), persistent=False)
        self.register_buffer("size_scale", scale, persistent=False)
        radius = torch.tensor([r or 0.0 for r in CIRCLE_SQUARED_DISTANCE])
        self.register_buffer("squared_distance", radius, persistent=False)
        self.register_buffer("lower", torch.tensor(self.grid.lower), persistent=False)
        self.register_buffer("cell", torch.tensor(self.grid.cell), persistent=False)

    def forward(self, bev: Tensor) -> Tensor:
        """Boxes of every sample.

        Args:
            bev: (B, in_channels, nx, ny), the decoder's map, of the type of the weights.

        Returns:
            (B, tasks, post_max_boxes, ``FIELDS``) float32, by falling score within each task; unused rows have score 0.
        """
        shared, heat = self.maps(bev)
        score, label, row, column = self.peaks(heat)
        return self.results(score, label, self.boxes(self.codes(shared, row, column), row, column))

    def maps(self, bev: Tensor) -> tuple[Tensor, Tensor]:
        """The shared map (B, C, nx, ny) and the heat map logits (B, 10, nx, ny), by class."""
        shared = self.shared(bev)
        return shared, self.heat_last(F.relu(self.heat_first(shared)))

    def peaks(self, heat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The K = ``max_boxes`` highest cells of each task: score, class in the task, row, column, each (B, T, K)."""
        batch, classes, nx, ny = heat.shape
        lowest = heat.new_full((batch, 1, nx * ny), -torch.inf)
        by_class = torch.cat([heat.reshape(batch, classes, nx * ny), lowest], dim=1)
        by_task = by_class[:, self.heat_rows].view(batch * len(TASKS), -1)
        logits, index = by_task.topk(min(self.config.max_boxes, by_task.shape[1]))
        logits, index = logits.view(batch, len(TASKS), -1), index.view(batch, len(TASKS), -1)
        cell = index % (nx * ny)
        return logits.float().sigmoid(), index // (nx * ny), cell // ny, cell % ny

    def codes(self, shared: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """(B, T, K, 10) float32: the box maps of each task at its cells, in the order of ``BOX_MAPS``."""
        batch, channels, nx, ny = shared.shape
        count = row.shape[2]
        # A value depends on the 5 x 5 cells around it, in nine windows of 3 x 3; beyond the border both convolutions
        # see zeros.
        steps = torch.arange(3, device=shared.device)
        inner_row, inner_column = row[..., None] + steps - 1, column[..., None] + steps - 1
        inside = ((inner_row >= 0) & (inner_row < nx))[..., :, None] & ((inner_column >= 0) & (inner_column < ny))[
            ..., None, :
        ]
        cells = F.pad(shared.permute(0, 2, 3, 1), (0, 0, 2, 2, 2, 2)).reshape(-1, channels)
        threes = cells.as_strided((len(cells) - 2, 3 * channels), (channels, 1))  # three cells of a row, side by side
        sample = torch.arange(batch, device=shared.device).view(-1, 1, 1, 1, 1)
        corner = (sample * (nx + 4) + inner_row[..., :, None] + 1) * (ny + 4) + inner_column[..., None, :] + 1
        index = (corner[..., None] + steps * (ny + 4)).transpose(0, 1)  # (T, B, K, 3, 3, 3)
        windows = threes.index_select(0, index.flatten()).view(len(TASKS), -1, 9 * channels)
        middle = torch.baddbmm(self.box_first_bias, windows, self.box_first)
        inside = inside.transpose(0, 1).reshape(len(TASKS), -1, 1)
        middle = torch.where(inside, middle.relu(), 0.0).view(len(TASKS), batch * count, -1)
        codes = torch.baddbmm(self.box_last_bias, middle, self.box_last)
        return codes.view(len(TASKS), batch, count, CODES).transpose(0, 1).float()

    def boxes(self, codes: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """(B, T, K, 9) float32 with GEOMETRIC centres: x, y, z, w, l, h, r, vx, vy."""
        offset, z, log_size, heading, velocity = codes.split([channels for _, channels in BOX_MAPS], dim=-1)
        xy = (torch.stack([row, column], dim=-1) + offset) * self.cell + self.lower
        r = torch.atan2(heading[..., :1], heading[..., 1:])
        return torch.cat([xy, z, log_size.exp(), r, velocity], dim=-1)

    def results(self, score: Tensor, label: Tensor, boxes: Tensor) -> Tensor:
        """What is left after suppression, see ``forward``."""
        batch, tasks, count = score.shape
        reach = self.config.detection_range
        near = (boxes[..., :2].abs() <= reach).all(-1) & (boxes[..., 2].abs() <= Z_LIMIT)
        valid = (score > self.config.score_threshold) & near
        scale = torch.gather(self.size_scale.expand(batch, -1, -1), 2, label)[..., None]
        flat = torch.cat([boxes[..., :2], boxes[..., 3:5] * scale, boxes[..., 6:7]], dim=-1)
        kept = suppress(
            flat.view(batch * tasks, count, 5),
            valid.view(batch * tasks, count),
            self.squared_distance.repeat(batch),
            IOU_THRESHOLD,
            self.config.post_max_boxes,
        ).view(batch, tasks, -1)
        bottom = boxes[..., 2:3] - 0.5 * boxes[..., 5:6]
        labels = (label + self.first_label[:, None]).float()
        table = torch.cat([boxes[..., :2], bottom, boxes[..., 3:], score[..., None], labels[..., None]], dim=-1)
        found = torch.gather(table, 2, kept.clamp(min=0)[..., None].expand(-1, -1, -1, FIELDS))
        return torch.where((kept >= 0)[..., None], found, 0.0)


def _stack(parts: object) -> nn.Parameter:
    return nn.Parameter(torch.stack(list(parts)), requires_grad=False)  # type: ignore[call-overload]


def _rows(conv: nn.Conv2d) -> Tensor:
    """(9 * in, out): the kernel as a matrix over a window's cells, row by row, then channels."""
    return conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)


def _last_rows(convs: list[nn.Conv2d], channels: int) -> Tensor:
    """(9 * branches * channels, sum of outputs): each branch's kernel reads its own channels."""
    outputs = [conv.out_channels for conv in convs]
    matrix = convs[0].weight.new_zeros(9, len(convs), channels, sum(outputs))
    start = 0
    for i, conv in enumerate(convs):
        matrix[:, i, :, start : start + outputs[i]] = _rows(conv).detach().view(9, channels, outputs[i])
        start += outputs[i]
    return matrix.flatten(0, 2)


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 3x3 convolution that does not learn."""
    assert bias is not None
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
    conv.weight = nn.Parameter(weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv
