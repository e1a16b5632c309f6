"""A checkpoint is a folder: ``model.safetensors`` (weights) and ``model.json`` (everything else one needs to know)."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from crkd_core.cli import UserError
from crkd_core.config import Recipe, recipe_from_dict, recipe_to_dict
from crkd_core.models.detector import FusionDetector
from crkd_core.types import DETECTION_CLASSES

FORMAT = 1


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which file, what was expected and what was found."""


@dataclass(frozen=True)
class Checkpoint:
    """What ``model.json`` holds.

    Attributes:
        recipe: the resolved recipe the weights belong to.
        metrics: figures measured when it was saved, name -> value.
        provenance: how it was made (command, data, steps, seed, commit).
        folder: where it was read from.
    """

    recipe: Recipe
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    folder: Path


def save_checkpoint(
    folder: Path | str,
    model: FusionDetector,
    recipe: Recipe,
    *,
    metrics: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint folder; it appears under its name only when complete, replacing an older one.

    Args:
        folder: target; parents are made.
        model: its weights.
        recipe: the resolved recipe of ``model``.
        metrics: figures measured on it.
        provenance: how it was made.
        half: store matrices and kernels as float16, half the size; vectors (norms, biases) stay float32.

    Returns:
        The folder.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        weights = {key: _stored(value, half=half) for key, value in model.state_dict().items()}
        save_file(weights, temporary / "model.safetensors")
        (temporary / "model.safetensors").chmod(0o644)
        sidecar = {
            "format": FORMAT,
            "recipe": recipe_to_dict(recipe),
            "classes": list(DETECTION_CLASSES),
            "metrics": metrics or {},
            "provenance": provenance or {},
            "sha256": _sha256(temporary / "model.safetensors"),
        }
        (temporary / "model.json").write_text(json.dumps(sidecar, indent=1) + "\n")
        temporary.chmod(0o755)
        if target.exists():
            # A rename cannot replace a folder that is not empty: move the old one aside first.
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.replace(old / target.name)
            temporary.replace(target)
            shutil.rmtree(old)
        else:
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def read_sidecar(folder: Path | str) -> Checkpoint:
    """Read and validate ``model.json``.

    Raises:
        CheckpointError: missing folder or file, not JSON, other format or classes.
        RecipeError: the stored recipe is not valid.
    """
    path = Path(folder) / "model.json"
    for needed in (path, path.with_name("model.safetensors")):
        if not needed.is_file():
            raise CheckpointError(
                f"checkpoint {folder}: {needed.name} not found; "
                "expected a folder with model.safetensors and model.json as training/train.py writes it"
            )
    try:
        sidecar = json.loads(path.read_text())
        version, classes = sidecar["format"], tuple(sidecar["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint description ({error!r}); write it again") from None
    if version != FORMAT:
        raise CheckpointError(f"{path}: format: expected {FORMAT}, got {version}")
    if classes != DETECTION_CLASSES:
        raise CheckpointError(f"{path}: classes: expected {DETECTION_CLASSES}, got {classes}")
    recipe = recipe_from_dict(sidecar["recipe"], source=f"{path}: recipe")
    return Checkpoint(recipe, sidecar.get("metrics", {}), sidecar.get("provenance", {}), Path(folder))


def load_checkpoint(folder: Path | str, *, expected_recipe: str | None = None) -> tuple[FusionDetector, Checkpoint]:
    """Read a checkpoint into a model in eval mode, on the CPU.

    Args:
        folder: the checkpoint.
        expected_recipe: name its recipe must have, if given.

    Raises:
        CheckpointError: missing, damaged, of another recipe, or weights that do not fit the stored recipe.
    """
    checkpoint = read_sidecar(folder)
    if expected_recipe and checkpoint.recipe.name != expected_recipe:
        raise CheckpointError(
            f"checkpoint {folder}: recipe: expected '{expected_recipe}', got '{checkpoint.recipe.name}'; "
            "name the matching recipe, or leave it out to take the checkpoint's own"
        )
    path = Path(folder) / "model.safetensors"
    expected, found = json.loads((Path(folder) / "model.json").read_text()).get("sha256"), _sha256(path)
    if expected != found:
        raise CheckpointError(f"{path}: sha256: expected {expected}, got {found}; the file is damaged or was exchanged")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable: {error}") from None
    model = FusionDetector(checkpoint.recipe)
    _check_fit(model.state_dict(), weights, path, checkpoint.recipe.name)
    model.load_state_dict(weights)
    return model.eval(), checkpoint


def _stored(value: torch.Tensor, *, half: bool) -> torch.Tensor:
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    return value.half() if half and value.dim() > 1 else value.float()


def _check_fit(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], path: Path, recipe_name: str) -> None:
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    reshaped = [k for k in sorted(expected.keys() & found.keys()) if expected[k].shape != found[k].shape]
    problems = []
    for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)):
        if keys:
            problems.append(f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    if problems:
        raise CheckpointError(f"{path}: weights do not fit recipe '{recipe_name}': {'; '.join(problems)}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
