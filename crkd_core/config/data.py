"""What the network reads: images, the BEV grid, and their augmentation in training."""

from __future__ import annotations

from typing import Literal

from crkd_core.config.section import Count, NonNegative, Positive, Section, check_ascending


class ImageConfig(Section, frozen=True, kw_only=True):
    """How a camera image becomes network input.

    The full image is resized to a given WIDTH (aspect ratio kept), then cropped to ``size``: bottom rows, mid columns.
    """

    size: tuple[Count, Count]
    """Network input (height, width), pixels."""
    resized_width: Count
    """Width after resizing, before the crop, at test time (the original: 0.48 x 1600 = 768)."""
    train_resized_width: tuple[Count, Count]
    """Uniform range of the same in training (the original: 0.38..0.55 x 1600 = 608..880)."""
    train_rotation_deg: NonNegative = 5.4
    """Training rotation is uniform in +- this angle, degrees."""
    train_flip: bool = True
    resize: Literal["pil_bicubic", "reduced"] = "pil_bicubic"
    """``pil_bicubic``: antialiased bicubic of the full image, as the original. ``reduced``: JPEG decoded at half scale
    where the target is at most half as wide, then area-averaged; faster, other pixels."""

    def __post_init__(self) -> None:
        check_ascending("train_resized_width", self.train_resized_width)


class BevAugmentConfig(Section, frozen=True, kw_only=True):
    """Training augmentation of the whole scene in the BEV frame."""

    scale: tuple[Positive, Positive] = (0.9, 1.1)
    rotation: tuple[float, float] = (0.0, 0.0)
    """Uniform range, rad (the original: 0 for camera+radar models, +-pi/4 for the teacher)."""
    translation_std: NonNegative = 0.5
    """Standard deviation per axis, m."""
    flip_x: bool = True
    flip_y: bool = True
    radar_velocity: Literal["corrected", "released"] = "corrected"
    """Which radar features turn and scale with the scene. ``corrected``: vx_comp and vy_comp. ``released``: rcs and
    vx_comp, as the released weights were trained (quirk Q11); it makes no difference at test time."""

    def __post_init__(self) -> None:
        check_ascending("scale", self.scale)
        check_ascending("rotation", self.rotation)


class BevConfig(Section, frozen=True, kw_only=True):
    """The BEV grid all branches share, in the BEV frame (x right, y forward), metres.

    Every BEV tensor is (..., nx, ny): rows are x, columns y, both from their lower bound (quirk Q2 of the original).
    """

    x_range: tuple[float, float] = (-54.0, 54.0)
    y_range: tuple[float, float] = (-54.0, 54.0)
    z_range: tuple[float, float] = (-5.0, 3.0)
    cell: Positive = 0.6
    """Edge of a square cell."""

    def __post_init__(self) -> None:
        if self.z_range[1] <= self.z_range[0]:
            raise ValueError(f"z_range: expected (lower, upper), got {self.z_range}")
        for axis, (lower, upper) in (("x", self.x_range), ("y", self.y_range)):
            cells = (upper - lower) / self.cell
            if upper <= lower or abs(cells - round(cells)) > 1e-6 or round(cells) % 4:
                raise ValueError(
                    f"{axis}_range: expected (lower, upper) spanning a multiple of four cells of {self.cell} m, "
                    f"got {(lower, upper)}"
                )

    @property
    def nx(self) -> int:
        """Number of cells along x."""
        return round((self.x_range[1] - self.x_range[0]) / self.cell)

    @property
    def ny(self) -> int:
        """Number of cells along y."""
        return round((self.y_range[1] - self.y_range[0]) / self.cell)
