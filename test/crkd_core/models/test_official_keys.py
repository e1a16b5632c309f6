"""Our parameter names and the original's, in both directions, over every entry of its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crkd_core.config import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.models.detector import FusionDetector
from crkd_core.models.official_keys import (
    CONSTANTS,
    SWIN_CONSTANT,
    is_constant,
    official_key,
    official_value,
    our_key,
    our_value,
)

MODELS: tuple[tuple[str, str, Any, bool], ...] = (
    ("student_gated", "student", "gated", False),
    ("baseline_student_convfuser", "baseline", "conv", False),
    ("teacher_gated", "teacher", "gated", False),
    ("baseline_teacher_convfuser", "teacher", "conv", False),
    ("distiller", "crkd", "gated", True),
    ("distiller", "teacher", "gated", False),
)


def with_fuser(recipe: Recipe, fuser: str) -> Recipe:
    values = recipe_to_dict(recipe)
    values["model"]["fuser"]["type"] = fuser
    return recipe_from_dict(values, source="test")


@pytest.mark.golden
@pytest.mark.parametrize("backbone", ["r50", "swint"])
@pytest.mark.parametrize(("name", "recipe", "fuser", "distilled"), MODELS, ids=[f"{m[0]}-{m[1]}" for m in MODELS])
def test_every_entry_both_ways(
    golden_dir: Path, name: str, recipe: str, fuser: Any, distilled: bool, backbone: str
) -> None:
    if recipe == "teacher":
        pytest.importorskip("spconv")
    official = json.loads((golden_dir / f"keys_{backbone}.json").read_text())[name]
    with torch.device("meta"):
        model = FusionDetector(with_fuser(load_recipe(f"{recipe}_{backbone}"), fuser))
    ours = {
        key: [list(official_value(value).shape), str(value.dtype).removeprefix("torch.")]
        for key, value in model.state_dict().items()
    }

    mapped = {key: our_key(key, fuser=fuser, distilled=distilled) for key in official}
    assert {key: official[their] for their, key in mapped.items() if key is not None} == ours
    for key in ours:
        assert mapped[official_key(key, fuser=fuser, distilled=distilled)] == key

    left = [key for key, our in mapped.items() if our is None]
    if name == "distiller":  # the other model, and the adapters of a loss
        left = [key for key in left if key.split(".")[0].endswith("_student") == distilled]
        left = [key for key in left if not key.startswith("fused_feat_affinity_loss.")]
    assert all(is_constant(key) for key in left)
    left = [key for key in left if not key.endswith(SWIN_CONSTANT)]
    assert sorted(key.rsplit(".", 1)[1] for key in left) == sorted(CONSTANTS)
    assert all(".vtransform." in key for key in left)


def test_a_teacher_entry_is_not_taken_for_the_student() -> None:
    assert our_key("decoder.neck.fuse.0.weight", distilled=True) is None
    assert our_key("decoder_student.neck.fuse.0.weight", distilled=True) == "decoder.neck.fuse.0.weight"
    assert our_key("decoder_student.neck.fuse.0.weight") is None


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(KeyError, match=r"lidar\.conv\.weight"):
        official_key("lidar.conv.weight")


def test_sparse_kernels_change_their_axes_and_back() -> None:
    theirs = torch.arange(2 * 3 * 4 * 5 * 6).view(2, 3, 4, 5, 6)
    assert our_value(theirs)[5, 1, 2, 3, 4] == theirs[1, 2, 3, 4, 5]
    assert torch.equal(official_value(our_value(theirs)), theirs)
