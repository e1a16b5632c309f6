"""Checkpoints of the original CRKD code: read and written by its names, converted to and from ours."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crkd_core.cli import UserError
from crkd_core.config import Recipe
from crkd_core.models.detector import FusionDetector
from crkd_core.models.official_keys import is_constant, official_key, official_value, our_key, our_value
from crkd_core.models.swin import WindowAttention
from crkd_core.models.view_transform import Splat
from crkd_core.ops.frustum import Z_RANGE

Part = Literal["student", "teacher"]
"""Which model of a checkpoint: the camera + radar one or the camera + LiDAR one."""

_ADAPTERS = "fused_feat_affinity_loss."
_SHOWN = 20


class OfficialError(UserError):
    """A checkpoint of the original code that cannot be used as asked."""


@dataclass(frozen=True)
class OfficialFile:
    """What such a file holds.

    Attributes:
        state: the original's name -> value.
        meta: what else its writer noted (epoch, versions, configuration).
    """

    state: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def distilled(self) -> bool:
        """Whether it is a distiller's, which holds a student and its teacher."""
        return any(key.startswith("encoders_student.") for key in self.state)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The models in it."""
        if self.distilled:
            return ("student", "teacher")
        return ("teacher",) if any(key.startswith("encoders.lidar.") for key in self.state) else ("student",)

    def recipe_name(self, part: Part) -> str:
        """The shipped recipe that a model in it belongs to.

        Raises:
            OfficialError: none does.
        """
        suffix = "_student" if self.distilled and part == "student" else ""
        camera = f"encoders{suffix}.camera.backbone."
        radar = f"encoders{suffix}.radar.backbone."
        if f"{camera}patch_embed.projection.weight" in self.state:
            backbone = "swint"
        elif f"{camera}layer1.0.conv3.weight" in self.state:
            backbone = "r50"
        else:
            raise OfficialError(
                f"neither {camera}layer1.0.conv3.weight (ResNet-50) nor {camera}patch_embed.projection.weight (Swin-T) "
                "found: not a checkpoint of CRKD; name the recipe to see how its entries differ"
            )
        gated = f"fuser{suffix}.input_conv_sensor_1.weight" in self.state
        if part == "teacher" and not gated:
            raise OfficialError(
                "a teacher without gates: no recipe is shipped for it; name one of your own with base: teacher_r50 or "
                "teacher_swint and model: {fuser: {type: conv}}"
            )
        if part == "teacher":
            return f"teacher_{backbone}"
        if not gated:
            return f"baseline_{backbone}"
        return f"{'crkd' if f'{radar}caliber.0.weight' in self.state else 'student'}_{backbone}"


@dataclass(frozen=True)
class Conversion:
    """Weights for one of our models, and how far they cover it. Names are the original's unless stated.

    Attributes:
        weights: our name -> value, of our shapes.
        missing: entries of the model that the file lacks.
        unexpected: entries of the file that the model does not have.
        reshaped: entries of another shape: name, expected shape, shape in the file.
        constants: entries that are recomputed.
        elsewhere: entries of the other model of a distiller, or of its losses.
    """

    weights: dict[str, Tensor]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, left over or of another shape."""
        return not (self.missing or self.unexpected or self.reshaped)

    def report(self) -> str:
        """A readable account of every kind of difference."""
        lines = [f"{len(self.weights)} entries fit"]
        if self.constants:
            lines.append(f"{len(self.constants)} constants are recomputed")
        if self.elsewhere:
            lines.append(f"{len(self.elsewhere)} entries belong to the other model of the distiller or to its losses")
        reshaped = [f"{name}: expected {expected}, found {found}" for name, expected, found in self.reshaped]
        for title, rows in (
            ("missing (the recipe has them, the file does not)", self.missing),
            ("unexpected (the file has them, the recipe does not)", self.unexpected),
            ("of another shape", reshaped),
        ):
            if rows:
                lines.append(f"{len(rows)} {title}:")
                lines += [f"  {row}" for row in rows[:_SHOWN]]
                if len(rows) > _SHOWN:
                    lines.append(f"  and {len(rows) - _SHOWN} more")
        return "\n".join(lines)


def read_official(path: Path | str) -> OfficialFile:
    """Read a ``.pth`` of the original: a state dict, bare or under ``state_dict`` or ``model`` beside ``meta``.

    Only tensors and plain values are read (``weights_only``): such a file is a pickle, which could run anything else.

    Raises:
        OfficialError: missing, damaged, holding other objects, or no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise OfficialError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        reason = str(error).partition("GLOBAL ")[2].split(" was")[0] or "an unreadable pickle"
        raise OfficialError(
            f"{path}: expected tensors and plain values only, found {reason}; where it was written, save it again "
            "without its meta: torch.save({'state_dict': torch.load(PATH)['state_dict']}, NEW_PATH)"
        ) from None
    except Exception as error:  # noqa: BLE001  what is no pickle at all can raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OfficialError(f"{path}: cannot be read as a torch file: {reason}") from None
    wrapper = content if isinstance(content, dict) else {}
    state = next((wrapper[key] for key in ("state_dict", "model") if isinstance(wrapper.get(key), Mapping)), wrapper)
    weights = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        found = ", ".join(map(str, list(wrapper)[:5])) if wrapper else type(content).__name__
        raise OfficialError(f"{path}: expected a state dict, bare or under state_dict or model, found {found}")
    meta = wrapper.get("meta")
    return OfficialFile(weights, dict(meta) if isinstance(meta, Mapping) else {})


def converted(file: OfficialFile, model: FusionDetector, part: Part) -> Conversion:
    """The weights of a file for a model.

    Args:
        file: of the original.
        model: ours, whose names and shapes count.
        part: which model of the file is meant.

    Raises:
        OfficialError: there is no such model in the file.
    """
    if part not in file.parts:
        raise OfficialError(f"--part {part}: the file holds a {file.parts[0]} only")
    expected = model.state_dict()
    fuser = model.recipe.model.fuser.type
    distilled = file.distilled and part == "student"
    result = Conversion({})
    for name, value in file.state.items():
        first = name.partition(".")[0]
        ours = our_key(name, fuser=fuser, distilled=distilled)
        if file.distilled and (first.endswith("_student") != distilled or name.startswith(_ADAPTERS)):
            result.elsewhere.append(name)
        elif is_constant(name):
            result.constants.append(name)
        elif ours is None or ours not in expected:
            result.unexpected.append(name)
        elif our_value(value).shape != expected[ours].shape:
            wanted = official_value(expected[ours])
            result.reshaped.append((name, tuple(wanted.shape), tuple(value.shape)))
        else:
            result.weights[ours] = our_value(value).to(expected[ours].dtype)
    there = result.weights.keys() | {our_key(name, fuser=fuser, distilled=distilled) for name, _, _ in result.reshaped}
    result.missing.extend(official_key(k, fuser=fuser, distilled=distilled) for k in expected if k not in there)
    return result


def exported(model: FusionDetector) -> dict[str, Tensor]:
    """The model's state by the original's names and layouts, constants included.

    A student with a calibration block exists in the original only inside a distiller: its names carry ``_student``.

    Raises:
        OfficialError: a detector without cameras, which the original does not have.
    """
    if model.camera is None:
        raise OfficialError(f"recipe {model.recipe.name}: has no camera branch; the original knows no such detector")
    radar = model.recipe.model.radar
    distilled = radar is not None and radar.calibration
    fuser = model.recipe.model.fuser.type
    state = {
        official_key(key, fuser=fuser, distilled=distilled): official_value(value.detach().cpu())
        for key, value in model.state_dict().items()
    }
    prefix = f"encoders{'_student' if distilled else ''}.camera."
    for name, value in _view_constants(model.camera.view_transform).items():
        state[f"{prefix}vtransform.{name}"] = value
    for name, module in model.camera.backbone.named_modules():
        if isinstance(module, WindowAttention):
            state[f"{prefix}backbone.{name}.relative_position_index"] = module.relative_position_index.cpu()
    return state


def write_official(path: Path | str, model: FusionDetector, recipe: Recipe) -> Path:
    """Write ``exported`` under ``state_dict``, as the original's tools read it; whole or not at all.

    Raises:
        OfficialError: the folder cannot be written to.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"meta": {"exported_from": "crkd_ros", "recipe": recipe.name}, "state_dict": exported(model)}, partial
        )
        partial.replace(target)
    except (OSError, RuntimeError) as error:
        raise OfficialError(f"{target}: cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def _view_constants(view: Splat) -> dict[str, Tensor]:
    """The grid and the frustum as the original's view transform stores them."""
    lower = torch.tensor([*view.grid.lower, Z_RANGE[0]])
    edge = torch.tensor([*view.grid.cell, Z_RANGE[1] - Z_RANGE[0]])
    rows = int((view.pixels[:, 0] == view.pixels[0, 0]).sum())
    uv = view.pixels.cpu().view(1, rows, -1, 2).expand(len(view.depths), -1, -1, -1)
    depth = view.depths.cpu()[:, None, None, None].expand(*uv.shape[:3], 1)
    return {
        "dx": edge,
        "bx": lower + edge / 2,
        "nx": torch.tensor([*view.grid.shape, 1]),
        "frustum": torch.cat([uv, depth], dim=-1),
    }
