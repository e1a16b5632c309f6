"""Recipes: what a model is made of and how it is trained, as frozen, typed objects read from YAML.

A recipe file may name one ``base:`` (another recipe of its folder, or a shipped one) and then only states what differs.
Unknown keys, wrong types and values outside the allowed set are errors that name the file, the path inside it,
what was found and what is allowed.
"""

from __future__ import annotations

from crkd_core.config.data import BevAugmentConfig, BevConfig, ImageConfig
from crkd_core.config.distillation import (
    DistillationConfig,
    FeatureDistillation,
    RadarDistillation,
    RelationDistillation,
    ResponseDistillation,
)
from crkd_core.config.loading import load_recipe, plain_values, recipe_folder, recipe_from_dict, recipe_to_dict
from crkd_core.config.model import (
    CameraConfig,
    DecoderConfig,
    FuserConfig,
    HeadConfig,
    LidarConfig,
    ModelConfig,
    RadarConfig,
)
from crkd_core.config.recipe import Recipe
from crkd_core.config.samples import PasteConfig, PasteCounts, SamplesConfig, SensorDropout
from crkd_core.config.section import RecipeError
from crkd_core.config.train import TrainConfig

__all__ = [
    "BevAugmentConfig",
    "BevConfig",
    "CameraConfig",
    "DecoderConfig",
    "DistillationConfig",
    "FeatureDistillation",
    "FuserConfig",
    "HeadConfig",
    "ImageConfig",
    "LidarConfig",
    "ModelConfig",
    "PasteConfig",
    "PasteCounts",
    "RadarConfig",
    "RadarDistillation",
    "Recipe",
    "RecipeError",
    "RelationDistillation",
    "ResponseDistillation",
    "SamplesConfig",
    "SensorDropout",
    "TrainConfig",
    "load_recipe",
    "plain_values",
    "recipe_folder",
    "recipe_from_dict",
    "recipe_to_dict",
]
