"""Recipes: what a model is made of and how it is trained, as frozen, typed objects read from YAML.

A recipe file may name one ``base:`` (another recipe of its folder, or a shipped one) and then only states what differs.
Unknown keys, wrong types and values outside the allowed set are errors that name the file, the path inside it,
what was found and what is allowed.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import yaml

from crkd_core.cli import UserError


class RecipeError(UserError):
    """A recipe that cannot be used; the message says where, what was found and what is allowed."""


Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


def _check_ascending(name: str, pair: tuple[float, float]) -> None:
    if pair[0] > pair[1]:
        raise ValueError(f"{name}: expected (lower, upper), got {pair}")


class ImageConfig(_Section, frozen=True, kw_only=True):
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
        _check_ascending("train_resized_width", self.train_resized_width)


class BevAugmentConfig(_Section, frozen=True, kw_only=True):
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
        _check_ascending("scale", self.scale)
        _check_ascending("rotation", self.rotation)


class BevConfig(_Section, frozen=True, kw_only=True):
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


class CameraConfig(_Section, frozen=True, kw_only=True):
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


class RadarConfig(_Section, frozen=True, kw_only=True):
    """Radar branch: pillars of the BEV grid, per-point MLP, maximum, scatter, optional calibration block."""

    sweeps: Count = 6
    max_points_per_pillar: Count = 20
    max_pillars: tuple[Count, Count] = (30000, 60000)
    """Training, inference."""
    channels: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (256, 256, 256, 256)
    calibration: bool = False
    """Three dilated convolutions on the radar map (CRKD's student) and an activation head for its distillation loss."""


class LidarConfig(_Section, frozen=True, kw_only=True):
    """LiDAR branch of a teacher: voxels, mean of their points, sparse convolutions (needs spconv)."""

    sweeps: Annotated[int, msgspec.Meta(ge=0)] = 9
    """Earlier sweeps added to the key frame: the newest ones."""
    random_sweeps: bool = False
    """In training, a random choice among one sweep more than ``sweeps`` (the released code: 9 of 10, also at test time,
    quirk Q15; here a test is always deterministic)."""
    voxel: tuple[Positive, Positive, Positive] = (0.075, 0.075, 0.2)
    """Edges of a voxel along x, y, z, m; eight along x and y make a cell of the BEV grid."""
    max_points_per_voxel: Count = 10
    max_voxels: tuple[Count, Count] = (120000, 160000)
    """Per sample: training, inference."""
    channels: tuple[Count, Count, Count, Count] = (16, 32, 64, 128)
    """Channels of the four stages."""
    out_channels: Count = 128
    """Channels of each of the layers along z that remain in the end; the map has as many times that."""


class FuserConfig(_Section, frozen=True, kw_only=True):
    """Fusion of the camera map with the radar (or LiDAR) map."""

    type: Literal["gated", "conv"] = "gated"
    channels: Count = 256


class DecoderConfig(_Section, frozen=True, kw_only=True):
    """BEV decoder: three residual stages at strides 2, 4, 4, then an FPN back to full resolution."""

    channels: tuple[Count, Count, Count] = (128, 256, 512)
    blocks: tuple[Count, Count, Count] = (2, 2, 2)
    out_channels: Count = 256


class HeadConfig(_Section, frozen=True, kw_only=True):
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


class ModelConfig(_Section, frozen=True, kw_only=True):
    """The network: cameras, and either radars (what a vehicle runs) or a LiDAR (a teacher)."""

    camera: CameraConfig
    radar: RadarConfig | None = None
    lidar: LidarConfig | None = None
    fuser: FuserConfig = FuserConfig()
    decoder: DecoderConfig = DecoderConfig()
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        if (self.radar is None) == (self.lidar is None):
            found = "neither" if self.radar is None else "both"
            raise ValueError(f"expected either radar or lidar beside camera, got {found}; set the other one to null")
        if self.camera.view_transform == "depth_lss" and self.lidar is None:
            raise ValueError(
                "camera.view_transform: 'depth_lss' needs LiDAR points, which a camera + radar detector does not read; "
                "set view_transform: lss"
            )


class TrainConfig(_Section, frozen=True, kw_only=True):
    """Optimisation."""

    steps: Count
    batch_size: Count
    """Samples per process and step."""
    learning_rate: Positive = 2e-4
    final_learning_rate_ratio: Fraction = 1e-3
    cosine_interval: Count = 1
    """Steps between two values of the cosine (the original: the steps of an epoch)."""
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 500
    warmup_ratio: Fraction = 1 / 3
    camera_backbone_learning_rate_ratio: Positive = 1.0
    """Factor on the learning rate of the camera backbone (the original's teacher: 0.1)."""
    weight_decay: NonNegative = 0.01
    gradient_clip: Positive = 35.0
    """L2 norm."""
    ema_decay: Fraction = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and saved; 0: the raw weights."""


class Recipe(_Section, frozen=True, kw_only=True):
    """One row of the results table."""

    name: str
    description: str
    image: ImageConfig
    bev: BevConfig
    model: ModelConfig
    train: TrainConfig
    bev_augment: BevAugmentConfig = BevAugmentConfig()

    def __post_init__(self) -> None:
        if any(side % 32 for side in self.image.size):
            raise ValueError(f"image.size: expected multiples of 32 (the backbone's stride), got {self.image.size}")
        if self.model.lidar is not None:
            self._check_voxels(self.model.lidar.voxel)

    def _check_voxels(self, voxel: tuple[float, float, float]) -> None:
        if any(abs(8 * edge - self.bev.cell) > 1e-6 for edge in voxel[:2]):
            raise ValueError(
                f"model.lidar.voxel: expected x and y edges of an eighth of bev.cell ({self.bev.cell / 8}), got {voxel}"
            )
        layers = (self.bev.z_range[1] - self.bev.z_range[0]) / voxel[2]
        if abs(layers - round(layers)) > 1e-6 or round(layers) < 24:
            raise ValueError(
                f"model.lidar.voxel: expected a z edge that divides bev.z_range {self.bev.z_range} into at least 24 "
                f"layers, got {voxel[2]}"
            )

    @property
    def live_radar(self) -> RadarConfig:
        """The radar branch, for what feeds the model from cameras and radars only.

        Raises:
            RecipeError: the recipe is a teacher's.
        """
        if self.model.radar is None:
            raise RecipeError(
                f"recipe '{self.name}': a teacher, which reads LiDAR points; here are cameras and radars only: "
                "use a checkpoint of a student, baseline or crkd recipe"
            )
        return self.model.radar

    @property
    def radar_sweeps(self) -> int:
        """Sweeps per radar that a frame should hold; 0 for a teacher."""
        return 0 if self.model.radar is None else self.model.radar.sweeps

    @property
    def lidar_sweeps(self) -> int:
        """Sweeps of the LiDAR that a frame should hold, the key frame among them; 0 without a LiDAR branch."""
        lidar = self.model.lidar
        return 0 if lidar is None else 1 + lidar.sweeps + lidar.random_sweeps


def recipe_folder() -> Path:
    """The folder of shipped recipes: ``config/recipes`` of the source tree, else the installed share folder.

    Raises:
        RecipeError: neither exists.
    """
    module = Path(__file__).resolve()
    candidates = [module.parents[1] / "config" / "recipes"]
    # <prefix>/lib/pythonX.Y/site-packages/crkd_core/config.py -> <prefix>/share/crkd_ros
    if len(module.parents) > 4:
        candidates.append(module.parents[4] / "share" / "crkd_ros" / "config" / "recipes")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise RecipeError(f"recipe folder: not found at {' or '.join(map(str, candidates))}; reinstall crkd_ros")


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by name (``student_r50``) or by the path of a YAML file.

    Raises:
        RecipeError: unknown name, unreadable file, wrong key or value.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = recipe_folder() / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
            raise RecipeError(f"recipe '{name_or_path}': unknown; expected one of {known}, or the path of a .yaml file")
    values = _resolved(path, seen=())
    values.setdefault("name", path.stem)
    return recipe_from_dict(values, source=str(path))


def recipe_from_dict(values: dict[str, Any], source: str) -> Recipe:
    """A validated recipe from plain values (as stored beside a checkpoint).

    Raises:
        RecipeError: wrong key or value; the message starts with ``source``.
    """
    _check_finite(values, source)
    try:
        return msgspec.convert(values, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{source}: {_explained(str(error), values)}") from None


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values of a resolved recipe, ready for JSON or YAML."""
    values = msgspec.to_builtins(recipe)
    assert isinstance(values, dict)
    return values


def _resolved(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise RecipeError(f"{path}: base: recipes name each other in a circle: {' -> '.join(p.stem for p in seen)}")
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping at the top, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    beside = path.parent / f"{base}.yaml"
    inherited = _resolved(beside if beside.is_file() else recipe_folder() / f"{base}.yaml", (*seen, path))
    inherited.pop("name", None)
    return _merged(inherited, values)


def _merged(base: dict[str, Any], diff: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in diff.items():
        known = out.get(key)
        out[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return out


def _check_finite(value: Any, source: str) -> None:
    """YAML has .nan and .inf, which pass comparisons."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_finite(inner, f"{source}: {key}" if ": " not in source else f"{source}.{key}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_finite(inner, source)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{source}: expected a finite number, got {value}")


def _explained(message: str, values: dict[str, Any]) -> str:
    """The message of msgspec with the path first, then what was found and what is allowed where it leaves that out."""
    text, at, path = message.rpartition(" - at `$")
    if not at:
        return f"{message}; allowed: {_field_names(Recipe)}" if "unknown field" in message else message
    keys = re.findall(r"[.](\w+)", path)
    found: Any = values
    expected: Any = Recipe
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
        types = {field.name: field.type for field in msgspec.structs.fields(expected)}
        expected = _without_none(types.get(key))
    where = f"{'.'.join(keys)}: {text}"
    if "unknown field" in text:
        return f"{where}; allowed: {_field_names(expected)}"
    if get_origin(expected) is Literal:
        return f"{where}; allowed: {', '.join(map(str, get_args(expected)))}"
    if isinstance(found, dict):
        return where
    return f"{where} {found!r}" if ", got" in text else f"{where}, got {found!r}"


def _without_none(annotation: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(annotation) is UnionType:
        (annotation,) = (inner for inner in get_args(annotation) if inner is not NoneType)
    return annotation


def _field_names(section: type[msgspec.Struct]) -> str:
    return ", ".join(field.name for field in msgspec.structs.fields(section))
