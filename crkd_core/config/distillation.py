"""How a student learns from a frozen teacher: CRKD's four losses, as released and corrected.

``released`` computes as the released code does, ``corrected`` as it was meant; METHOD section 11 lists what departs.
A loss of weight 0 is not computed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from crkd_core.config.section import Count, Fraction, NonNegative, Section, check_ascending

Behaviour = Literal["corrected", "released"]


class RadarDistillation(Section, frozen=True, kw_only=True):
    """CSRD, cross-stage radar distillation: the radar branch learns where the teacher sees objects."""

    weight: NonNegative = 100.0
    objectness: Behaviour = "corrected"
    """What the teacher says of a cell. ``corrected``: its highest class score. ``released``: class logits averaged
    before the sigmoid, tasks averaged after it, so that it stays far below 1 (quirk Q12)."""
    balance: Behaviour = "corrected"
    """How much a cell counts. ``corrected``: those without an object together as much as those with one. ``released``:
    all the same. Nearly all are empty; the activation falls to zero everywhere and, a ReLU's, does not come back."""
    object_score: Fraction = 0.1
    """A cell has an object where a class scores higher with the teacher."""


class FeatureDistillation(Section, frozen=True, kw_only=True):
    """MSFD, mask-scaling feature distillation: maps equal the teacher's where objects are."""

    camera_weight: NonNegative = 10.0
    """On the gated camera maps."""
    fused_weight: NonNegative = 10.0
    """On the fused maps."""
    masks: Behaviour = "corrected"
    """Cells of a box. ``corrected``: those its four corners span; it grows along itself with its speed along itself.
    ``released``: those that three corners of the rotated box span, width growing with vx, length with vy (quirk Q7)."""
    ranges: tuple[NonNegative, NonNegative] = (20.0, 30.0)
    """Distances beyond which a box grows by a quarter and by half of its size, m."""
    speeds: tuple[NonNegative, NonNegative] = (0.3, 0.8)
    """Speeds beyond which it grows by as much again, m/s."""
    growth: tuple[NonNegative, NonNegative] = (0.5, 4.0)
    """Least and greatest growth, m."""

    def __post_init__(self) -> None:
        for name in ("ranges", "speeds", "growth"):
            check_ascending(name, getattr(self, name))


class RelationDistillation(Section, frozen=True, kw_only=True):
    """RelD, multi-scale relation distillation: places of the fused map relate to each other as the teacher's do."""

    weight: NonNegative = 2.5
    """Of cosines. 0.25, the released one, is of inner products: beside them the loss of cosines was 14 times smaller in
    the study's first run, and its pull on the student's fused map 3 to 11 times."""
    affinity: Behaviour = "corrected"
    """How alike two cells are. ``corrected``: cosine similarity, as in the paper. ``released``: their inner product
    (quirk Q13), whose size goes with the square of the features; to be used with its own weight, see above."""
    scales: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (32, 16, 8, 4)
    """Edges of the maps that are compared, cells."""


class ResponseDistillation(Section, frozen=True, kw_only=True):
    """RespD, response distillation: the student's head answers as the teacher's does."""

    heatmap_weight: NonNegative = 1.0
    box_weight: NonNegative = 4.0
    velocity_weight: NonNegative = 1.0
    """Of the two velocity codes beside the other eight. Radars measure speed: a teacher may know less of it than its
    student, whom it then teaches wrong velocities (docs/study_findings.md)."""
    task_weights: tuple[NonNegative, NonNegative, NonNegative, NonNegative, NonNegative, NonNegative] = (
        2.0, 2.0, 2.0, 1.0, 2.0, 1.0,
    )  # fmt: skip
    """By task of the head; tasks of classes that move count twice."""
    center_score: Fraction = 0.3
    """Teacher scores above it normalise the heat-map loss."""
    box_score: Fraction = 0.1
    """Cells whose teacher scores add up to more count in the box loss; lowered by hundredths until there is one."""


class DistillationConfig(Section, frozen=True, kw_only=True):
    """The four losses, and how the teacher runs."""

    radar: RadarDistillation = RadarDistillation()
    features: FeatureDistillation = FeatureDistillation()
    relation: RelationDistillation = RelationDistillation()
    response: ResponseDistillation = ResponseDistillation()
    batch_division: Behaviour = "corrected"
    """``released``: MSFD and RelD, means already, are divided by the batch size once more (quirk Q19). ``corrected``:
    by 2, the original's batch size, so that the weights above mean the same at any batch."""
    teacher_statistics: Behaviour = "corrected"
    """``corrected``: the teacher is in eval mode. ``released``: in train mode, so that its normalisation uses the
    batch and its drop-path is active (quirk Q8)."""
    teacher_backbone: Behaviour = "corrected"
    """``corrected``: the teacher's camera backbone as trained. ``released``: overwritten with the ImageNet weights
    that the student's starts from (quirk Q9); needs ``--pretrained``."""
