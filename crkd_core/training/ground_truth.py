"""Ground truth for the official metric, from a nuScenes root or from any other source of the same facts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from crkd_core.cli import UserError
from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY
from crkd_core.geometry.transforms import transform
from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections, FloatArray


class GroundTruthError(UserError):
    """Ground truth that cannot be read; says where, what was expected and what was found."""


@dataclass(frozen=True)
class TruthBox:
    """One annotated box of any category, nuScenes convention (world frame).

    Attributes:
        category: full category name (``vehicle.car``, ``static_object.bicycle_rack``).
        translation: geometric centre, m.
        size: width, length, height, m.
        rotation: quaternion (w, x, y, z).
        velocity: (vx, vy), m/s; NaN where unknown.
        attribute: attribute name, or "".
        num_points: LiDAR plus radar returns inside; a box without any does not count.
    """

    category: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    attribute: str
    num_points: int


@dataclass(frozen=True)
class SampleTruth:
    """All annotations of one key frame.

    Attributes:
        token: the sample's name.
        stamp: reference stamp, ns.
        T_world_from_base: (4, 4), vehicle pose at ``stamp``.
        boxes: annotations of all categories.
        scene: name of the drive it belongs to, for titles.
        description: what is noteworthy about the drive, in words; "" if nobody said.
    """

    token: str
    stamp: int
    T_world_from_base: FloatArray
    boxes: tuple[TruthBox, ...]
    scene: str = ""
    description: str = ""

    def detections(self, *, min_points: int = 1) -> Detections:
        """The boxes of the ten classes with at least ``min_points`` returns, in the world frame, scores 1."""
        chosen = [b for b in self.boxes if b.category in CLASS_OF_CATEGORY and b.num_points >= min_points]
        boxes = Boxes3D.from_nuscenes(
            np.array([b.translation for b in chosen]).reshape(-1, 3),
            np.array([b.size for b in chosen]).reshape(-1, 3),
            np.array([b.rotation for b in chosen]).reshape(-1, 4),
            np.array([b.velocity for b in chosen]).reshape(-1, 2),
        )
        labels = np.array([DETECTION_CLASSES.index(CLASS_OF_CATEGORY[b.category]) for b in chosen], dtype=np.int64)
        return Detections(boxes, np.ones(len(boxes)), labels, frame_id="world", stamp=self.stamp)


def load_devkit(dataroot: Path | str, version: str) -> Any:
    """A ``nuscenes.NuScenes`` over a data root.

    Raises:
        MissingExtraError: nuscenes-devkit is not installed.
        GroundTruthError: the root is not there or its tables do not load.
    """
    nuscenes = require_devkit()
    tables = Path(dataroot) / version
    if not tables.is_dir():
        known = sorted(p.parent.name for p in Path(dataroot).glob("*/sample.json"))
        hint = f"found {', '.join(known)}" if known else "found no folder of tables"
        raise GroundTruthError(f"nuScenes root {dataroot}: expected the tables in {tables}; {hint}")
    try:
        return nuscenes.NuScenes(version=version, dataroot=str(dataroot), verbose=False)
    except (AssertionError, OSError, ValueError, KeyError) as error:
        raise GroundTruthError(f"nuScenes root {dataroot}, {version}: the devkit cannot load it: {error!r}") from None


class MissingExtraError(UserError):
    """A package that only an extra installs is needed."""


def require_devkit() -> Any:
    """The ``nuscenes`` package, imported on first use (about a second).

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import nuscenes.eval.detection.evaluate
    except ImportError as error:
        raise MissingExtraError(
            f"the official metric needs nuscenes-devkit ({error}); install it with: pip install 'crkd_ros[nuscenes]'"
        ) from None
    return nuscenes


def tokens_of_scenes(devkit: Any, scenes: Iterable[str]) -> list[str]:
    """The sample tokens of some scenes, in their order in time.

    Raises:
        GroundTruthError: a scene that the tables do not hold.
    """
    by_name = {scene["name"]: scene for scene in devkit.scene}
    tokens: list[str] = []
    for name in scenes:
        if name not in by_name:
            raise GroundTruthError(f"scene '{name}': not in the tables; expected one of {', '.join(sorted(by_name))}")
        token = by_name[name]["first_sample_token"]
        while token:
            tokens.append(token)
            token = devkit.get("sample", token)["next"]
    return tokens


def tokens_of_split(devkit: Any, split: str) -> list[str]:
    """The sample tokens of a split (``mini_val``, or one of ``<version>/splits.json``); its absent scenes are left out.

    Raises:
        GroundTruthError: unknown split, or no sample of it in the tables.
    """
    root = f"{devkit.dataroot}/{devkit.version}"
    return tokens_of_scenes(devkit, scenes_of_split(root, split, [scene["name"] for scene in devkit.scene]))


def scenes_of_split(folder: Path | str, split: str, present: Collection[str]) -> list[str]:
    """The names of a split's scenes.

    Args:
        folder: of the tables; its ``splits.json``, if there is one, names splits of one's own.
        split: one of the official ones (``train``, ``val``, ``mini_val``, ...), or of ``splits.json``.
        present: scenes of the data set; others are left out.

    Raises:
        GroundTruthError: unknown split, or none of its scenes is present.
        MissingExtraError: nuscenes-devkit, which knows the official splits, is not installed.
    """
    require_devkit()
    from nuscenes.utils.splits import create_splits_scenes

    file = Path(folder) / "splits.json"
    try:
        own = msgspec.json.decode(file.read_bytes(), type=dict[str, list[str]]) if file.is_file() else {}
    except (OSError, msgspec.DecodeError) as error:
        raise GroundTruthError(f"{file}: {error}") from None
    splits = {**own, **create_splits_scenes()}
    if split not in splits:
        raise GroundTruthError(f"split '{split}': unknown; expected one of {', '.join(splits)} ({file})")
    names = [name for name in splits[split] if name in set(present)]
    if not names:
        raise GroundTruthError(f"split '{split}': none of its {len(splits[split])} scenes is in {folder}")
    return names


def truth_from_nuscenes(devkit: Any, tokens: Collection[str], *, progress: bool = False) -> dict[str, SampleTruth]:
    """Ground truth of some samples through the devkit, with the devkit's velocities.

    Args:
        devkit: ``nuscenes.NuScenes``.
        tokens: sample tokens.
        progress: show a progress bar.

    Raises:
        GroundTruthError: unknown token, no LIDAR_TOP key frame (the metric's ego pose), or a box with two attributes.
    """
    attributes = {a["token"]: a["name"] for a in devkit.attribute}
    truth: dict[str, SampleTruth] = {}
    for token in tqdm(tokens, desc="ground truth", disable=not progress, leave=False):
        try:
            sample = devkit.get("sample", token)
        except KeyError:
            raise GroundTruthError(f"sample '{token}': not in the tables of {devkit.dataroot}") from None
        if "LIDAR_TOP" not in sample["data"]:
            raise GroundTruthError(f"sample '{token}': no LIDAR_TOP key frame, whose ego pose the metric needs")
        scene = devkit.get("scene", sample["scene_token"])
        pose = devkit.get("ego_pose", devkit.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
        truth[token] = SampleTruth(
            token=token,
            stamp=int(sample["timestamp"]) * 1000,
            T_world_from_base=transform(pose["rotation"], pose["translation"]),
            boxes=tuple(_box(devkit, annotation, attributes) for annotation in sample["anns"]),
            scene=scene["name"],
            description=scene["description"],
        )
    return truth


def _box(devkit: Any, token: str, attributes: dict[str, str]) -> TruthBox:
    record = devkit.get("sample_annotation", token)
    names = [attributes[t] for t in record["attribute_tokens"]]
    if len(names) > 1:
        raise GroundTruthError(f"annotation '{token}': expected at most one attribute, got {', '.join(names)}")
    vx, vy = devkit.box_velocity(token)[:2].tolist()
    return TruthBox(
        category=record["category_name"],
        translation=tuple(record["translation"]),
        size=tuple(record["size"]),
        rotation=tuple(record["rotation"]),
        velocity=(vx, vy) if math.isfinite(vx) and math.isfinite(vy) else (math.nan, math.nan),
        attribute=names[0] if names else "",
        num_points=int(record["num_lidar_pts"]) + int(record["num_radar_pts"]),
    )
