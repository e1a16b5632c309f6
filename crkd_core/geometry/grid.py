"""The BEV grid: which cell of a map a place belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from crkd_core.config import BevConfig


@dataclass(frozen=True)
class BevGrid:
    """nx x ny cells in the BEV frame; rows of a map are x, columns y. All lengths in metres.

    Attributes:
        lower: lower border along x and y.
        cell: edge of a cell along x and y.
        shape: number of cells along x and y.
        z_range: lower and upper border of the points that count.
    """

    lower: tuple[float, float]
    cell: tuple[float, float]
    shape: tuple[int, int]
    z_range: tuple[float, float]

    @classmethod
    def from_config(cls, bev: BevConfig) -> BevGrid:
        """The grid of a recipe."""
        return cls((bev.x_range[0], bev.y_range[0]), (bev.cell, bev.cell), (bev.nx, bev.ny), bev.z_range)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.shape[0] * self.shape[1]
