"""Our parameter names and the original's, in both directions, over every entry of its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crkd_core.config import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.models.detector import FusionDetector
from crkd_core.models.official_keys import CONSTANTS, SWIN_CONSTANT, official_key, our_key

MODELS: tuple[tuple[str, str, Any, bool], ...] = (
    ("student_gated", "student_r50", "gated", False),
    ("baseline_student_convfuser", "student_r50", "conv", False),
    ("distiller", "crkd_r50", "gated", True),
)
SWIN = {"backbone": "swin_t", "neck": "generalized_lss_fpn", "neck_channels": 512}


def variant(recipe: Recipe, fuser: str, camera: dict[str, Any]) -> Recipe:
    values = recipe_to_dict(recipe)
    values["model"]["fuser"]["type"] = fuser
    values["model"]["camera"] |= camera
    return recipe_from_dict(values, source="test")


@pytest.mark.golden
@pytest.mark.parametrize(("file", "camera"), [("keys_r50", {}), ("keys_swint", SWIN)], ids=["r50", "swint"])
@pytest.mark.parametrize(("name", "recipe", "fuser", "distilled"), MODELS)
def test_every_entry_both_ways(
    golden_dir: Path, name: str, recipe: str, fuser: Any, distilled: bool, file: str, camera: dict[str, Any]
) -> None:
    official = json.loads((golden_dir / f"{file}.json").read_text())[name]
    with torch.device("meta"):
        model = FusionDetector(variant(load_recipe(recipe), fuser, camera))
    ours = {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in model.state_dict().items()
    }

    mapped = {key: our_key(key, fuser=fuser, distilled=distilled) for key in official}
    assert {key: official[their] for their, key in mapped.items() if key is not None} == ours
    for key in ours:
        assert mapped[official_key(key, fuser=fuser, distilled=distilled)] == key

    left = [key for key, our in mapped.items() if our is None]
    if distilled:
        left = [key for key in left if "_student." in key.split(".")[0] + "."]
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
