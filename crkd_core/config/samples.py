"""How training draws its samples from a data set: balance, pasted objects, lost sensors, damaged files."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from crkd_core.config.section import Count, Fraction, Section

Number = Annotated[int, msgspec.Meta(ge=0)]


class PasteCounts(Section, frozen=True, kw_only=True):
    """A scene is filled up to so many objects of each class.

    The nuScenes setting that CenterPoint and BEVFusion published.
    """

    car: Number = 2
    truck: Number = 3
    construction_vehicle: Number = 7
    bus: Number = 4
    trailer: Number = 6
    barrier: Number = 2
    motorcycle: Number = 6
    bicycle: Number = 6
    pedestrian: Number = 2
    traffic_cone: Number = 2


class PasteConfig(Section, frozen=True, kw_only=True):
    """Ground-truth pasting: annotated objects of other training samples, with their LiDAR points, join a scene."""

    stop_epoch: Number
    """Epochs from this one on are not pasted to (the original: 15 of 20), so that training ends on true scenes."""
    fill_up_to: PasteCounts = PasteCounts()
    min_points: Count = 5
    """LiDAR points an object has at least, all sweeps together."""
    without_lidar: bool = False
    """Allow it for a model without LiDAR, as the released code did for the camera + radar student, although neither
    images nor radar show the pasted objects (quirk Q10)."""


class SensorDropout(Section, frozen=True, kw_only=True):
    """Chance that a training sample lacks a sensor as a whole; of those the model reads, at least one always stays."""

    camera: Fraction = 0.0
    """Of each camera."""
    radar: Fraction = 0.0
    """Of each radar."""


class SamplesConfig(Section, frozen=True, kw_only=True):
    """Which samples training sees."""

    class_balanced: bool = False
    """CBGS: in an epoch every class gets as many samples that contain it, drawn with replacement."""
    filter_empty_gt: bool = False
    """A sample without any box to learn is replaced by another, drawn at random."""
    paste: PasteConfig | None = None
    dropout: SensorDropout = SensorDropout()
    on_error: Literal["raise", "skip"] = "raise"
    """What a damaged file does: ``raise`` ends the run, ``skip`` replaces the sample by another, drawn at random. Both
    name it."""
    max_bad: Fraction = 0.01
    """More than this part of the data set's samples found damaged ends the run although ``on_error`` is ``skip``."""
