"""The arms of CRKD's table: its rows, other ways to distil, each loss alone, each correction undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["teacher", "baseline", "student", "crkd"]
Part = Literal["table", "variant", "loss", "correction"]

_OFF = {
    "CSRD": ("distillation.radar.weight=0",),
    "MSFD": ("distillation.features.camera_weight=0", "distillation.features.fused_weight=0"),
    "RelD": ("distillation.relation.weight=0",),
    "RespD": ("distillation.response.heatmap_weight=0", "distillation.response.box_weight=0"),
}
"""What switches each loss off."""


@dataclass(frozen=True)
class Arm:
    """One row of the study.

    Attributes:
        name: of the row, and with the seed of its folder.
        words: what it is.
        role: of its recipe.
        part: of the study.
        changes: KEY=VALUE changes of the recipe.
        reference: the arm it is compared with, seed by seed; "": none.
        needs: arms whose checkpoints, of the same seed, it starts with.

    An arm of role crkd that needs no student trains as long and as fast as the student's recipe says.
    """

    name: str
    words: str
    role: Role
    part: Part
    changes: tuple[str, ...] = ()
    reference: str = ""
    needs: tuple[str, ...] = ()

    @property
    def from_scratch(self) -> bool:
        """Whether it begins with weights that know nothing."""
        return "student" not in self.needs


CONTROL = "student_on"
"""The student trained on without a teacher: what the losses add is the difference to it, not to less training."""


def _without(*losses: str) -> tuple[str, ...]:
    return tuple(change for loss in losses for change in _OFF[loss])


_PAIR = ("teacher", "student")


def _alone(loss: str, words: str) -> Arm:
    others = _without(*(other for other in _OFF if other != loss))
    return Arm(f"only_{loss.lower()}", f"{loss} alone: {words}", "crkd", "loss", others, CONTROL, _PAIR)


def _undone(name: str, words: str, *changes: str) -> Arm:
    return Arm(name, words, "crkd", "correction", changes, "crkd", _PAIR)


def _released(key: str, words: str, *besides: str) -> Arm:
    return _undone(f"released_{key.rpartition('.')[2]}", words, f"{key}=released", *besides)


_CORRECTIONS = (
    _released("distillation.features.masks", "masks of three corners, growth along the wrong axes"),
    _released("distillation.radar.objectness", "class logits averaged before the sigmoid"),
    _released("distillation.radar.balance", "cells without an object count like those with one, each for itself"),
    _released(
        "distillation.relation.affinity",
        "inner products in place of cosines, with their weight",
        "distillation.relation.weight=0.25",
    ),
    _released("distillation.batch_division", "means divided by the batch size once more"),
    _released("distillation.teacher_statistics", "the teacher's norms use the batch"),
    _released("bev_augment.radar_velocity", "radar augmentation turns the wrong features"),
)

BALANCED = (
    "distillation.radar.weight=25",
    "distillation.features.camera_weight=75",
    "distillation.features.fused_weight=3",
    "distillation.relation.weight=8",
    "distillation.response.heatmap_weight=0.4",
    "distillation.response.box_weight=0.8",
)
"""With these each loss pulls about a third as hard as the detector's own ones, in the part where it pulls hardest, at a
student of the study (``training/probe_distillation.py``, see docs/study_findings.md)."""

NO_VELOCITY = ("distillation.response.velocity_weight=0",)
GENTLE = (*_without("MSFD"), *NO_VELOCITY)

ARMS = (
    Arm("teacher", "camera + LiDAR", "teacher", "table"),
    Arm("student", "camera + radar, gated fusion", "student", "table", reference="baseline"),
    Arm("crkd", "the student, trained on with all four losses", "crkd", "table", (), CONTROL, _PAIR),
    Arm(CONTROL, "the student, trained on by itself", "crkd", "table", _without(*_OFF), "student", ("student",)),
    Arm("baseline", "camera + radar, convolutional fusion", "baseline", "table"),
    Arm("crkd_balanced", "crkd, all losses of like pull", "crkd", "variant", BALANCED, CONTROL, _PAIR),
    Arm("crkd_no_velocity", "crkd, but velocities are not taught", "crkd", "variant", NO_VELOCITY, CONTROL, _PAIR),
    Arm("crkd_gentle", "crkd without MSFD, velocities not taught", "crkd", "variant", GENTLE, CONTROL, _PAIR),
    Arm("crkd_scratch", "all losses from the first step on", "crkd", "variant", (), "student", ("teacher",)),
    _alone("CSRD", "radar map against the teacher's objectness"),
    _alone("MSFD", "camera and fused features at objects"),
    _alone("RelD", "relations between places"),
    _alone("RespD", "the head's answers"),
    _undone("released", "all of them", *(change for arm in _CORRECTIONS for change in arm.changes)),
    *_CORRECTIONS,
)
"""In order of importance."""


FIRST_SEED = 0
"""Of the one teacher that all students learn from, as in the paper; teachers of other seeds show their spread."""


@dataclass(frozen=True)
class SeededArm:
    """An arm with one seed, which is also that of the student it starts with.

    Attributes:
        arm: which.
        seed: of weights, order and augmentation.
    """

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return name_of(self.arm.name, self.seed)

    @property
    def needs(self) -> tuple[str, ...]:
        """Folders of the arms it starts with."""
        return tuple(name_of(name, FIRST_SEED if name == "teacher" else self.seed) for name in self.arm.needs)

    @property
    def spread_only(self) -> bool:
        """Whether nobody learns from this teacher: to be run when nothing else is left."""
        return self.arm.name == "teacher" and self.seed != FIRST_SEED

    @property
    def place(self) -> tuple[bool, int]:
        """Where it stands among all: the table with all its seeds first, the others seed by seed."""
        return self.spread_only, 0 if self.arm.part == "table" else 1 + self.seed


def name_of(arm: str, seed: int) -> str:
    """Folder of an arm with a seed."""
    return f"{arm}-seed{seed}"


def seeded(arms: tuple[Arm, ...], seeds: range) -> list[SeededArm]:
    """All arms with every seed, in order of importance."""
    return sorted((SeededArm(arm, seed) for arm in arms for seed in seeds), key=lambda one: one.place)
