"""What the network is made of."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from crkd_core.config.section import Count, Fraction, NonNegative, Positive, Section


class CameraConfig(Section, frozen=True, kw_only=True):
    """Camera branch: image backbone, neck to stride 8, lift-splat view transform."""

    backbone: Literal["resnet50", "resnet18", "swin_t"]
    backbone_width: Count = 64
    """Channels of the ResNet stem; every stage scales with it."""
    neck: Literal["second_fpn", "generalized_lss_fpn"]
    neck_channels: Count
    """second_fpn: channels of EACH of its four branches (concatenated); generalized_lss_fpn: output channels."""
    view_transform: Literal["lss", "depth_lss"] = "lss"
    depth: tuple[float, float, float] = (1.0, 60.0, 1.0)
    """Depth bins: first, end (exclusive), step, m."""
    channels: Count = 80
    """Channels of the camera BEV map."""

    def __post_init__(self) -> None:
        first, end, step = self.depth
        if not (0 < first < end and 0 < step <= end - first):
            raise ValueError(f"depth: expected 0 < first < end and a step of at most end - first, got {self.depth}")


class RadarConfig(Section, frozen=True, kw_only=True):
    """Radar branch: pillars of the BEV grid, per-point MLP, maximum, scatter, optional calibration block."""

    sweeps: Count = 6
    repeat_oldest: bool = False
    """A radar with fewer sweeps (a scene or a live run begins) has its oldest one counted several times, as in the
    original: a pillar's padding, which takes part in its maximum (quirk Q6), depends on the number of its points."""
    max_points_per_pillar: Count = 20
    max_pillars: tuple[Count, Count] = (30000, 60000)
    """Training, inference."""
    channels: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (256, 256, 256, 256)
    calibration: bool = False
    """Three dilated convolutions on the radar map (CRKD's student) and an activation head for its distillation loss."""


class LidarConfig(Section, frozen=True, kw_only=True):
    """LiDAR branch of a teacher: voxels, mean of their points, sparse convolutions (needs spconv)."""

    sweeps: Annotated[int, msgspec.Meta(ge=0)] = 9
    """Earlier sweeps added to the key frame."""
    sweep_step: Count = 1
    """Every so-many-th sweep before the key frame is one of them; 1: the newest ones. Sweeps further apart show the
    same motion with fewer points."""
    random_sweeps: bool = False
    """In training, a random choice among one sweep more than ``sweeps`` (the released code: 9 of 10, also at test time,
    quirk Q15; here a test is always deterministic)."""
    age_scale: Positive = 1.0
    """What the age of a point, in seconds, is multiplied with before the first convolution. Beside coordinates of tens
    of metres, tenths of a second hardly count at first; the released weights have learned to read them as they are."""
    voxel: tuple[Positive, Positive, Positive] = (0.075, 0.075, 0.2)
    """Edges of a voxel along x, y, z, m; eight along x and y make a cell of the BEV grid."""
    max_points_per_voxel: Count = 10
    max_voxels: tuple[Count, Count] = (120000, 160000)
    """Per sample: training, inference."""
    channels: tuple[Count, Count, Count, Count] = (16, 32, 64, 128)
    """Channels of the four stages."""
    out_channels: Count = 128
    """Channels of each of the layers along z that remain in the end; the map has as many times that."""

    def __post_init__(self) -> None:
        if self.random_sweeps and self.sweep_step > 1:
            raise ValueError(
                f"sweep_step: {self.sweep_step} chooses the sweeps that random_sweeps would draw; set it to 1, or "
                "random_sweeps: false"
            )


class FuserConfig(Section, frozen=True, kw_only=True):
    """Fusion of the camera map with the radar (or LiDAR) map; of a single map, one convolution."""

    type: Literal["gated", "conv"] = "gated"
    """``gated`` weighs two maps against each other and needs both."""
    channels: Count = 256


class DecoderConfig(Section, frozen=True, kw_only=True):
    """BEV decoder: three residual stages at strides 2, 4, 4, then an FPN back to full resolution."""

    channels: tuple[Count, Count, Count] = (128, 256, 512)
    blocks: tuple[Count, Count, Count] = (2, 2, 2)
    out_channels: Count = 256


class HeadConfig(Section, frozen=True, kw_only=True):
    """CenterHead: one heat map per class, six tasks, and how boxes are read from them."""

    channels: Count = 64
    heatmap_bias: float | None = None
    """Initial bias of the heat-map outputs; None: the layer's default, as in the released code (quirk Q9)."""
    min_radius: Annotated[int, msgspec.Meta(ge=0)] = 2
    """Least radius of a target Gaussian, cells."""
    gaussian_overlap: Fraction = 0.1
    max_boxes: Count = 500
    """Target slots per task and sample, and heat-map peaks read per class."""
    score_threshold: Fraction = 0.1
    post_max_boxes: Count = 83
    """Boxes kept per task after non-maximum suppression."""
    velocity_code_weight: NonNegative = 1.0
    """Weight of velocity in the box loss (the original's teacher: 0.2)."""
    detection_range: Positive = 61.2
    """Boxes whose centre lies beyond +- this in x or y are dropped, m."""


class ModelConfig(Section, frozen=True, kw_only=True):
    """The network: cameras, radars or both (what a vehicle runs); or a LiDAR in place of radars (a teacher)."""

    camera: CameraConfig | None
    radar: RadarConfig | None = None
    lidar: LidarConfig | None = None
    fuser: FuserConfig = FuserConfig()
    decoder: DecoderConfig = DecoderConfig()
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        if self.radar is not None and self.lidar is not None:
            raise ValueError("expected radar or lidar, got both; set one of them to null")
        branches = [branch for branch in (self.camera, self.radar, self.lidar) if branch is not None]
        if not branches:
            raise ValueError("expected at least one of camera, radar and lidar, got none")
        if len(branches) == 1 and self.fuser.type == "gated":
            raise ValueError("fuser.type: 'gated' weighs two maps against each other, here is one; set type: conv")
        if self.camera is not None and self.camera.view_transform == "depth_lss" and self.lidar is None:
            raise ValueError(
                "camera.view_transform: 'depth_lss' needs LiDAR points, which this detector does not read; "
                "set view_transform: lss"
            )
