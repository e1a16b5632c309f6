"""Recipes from YAML files and back to plain values; every mistake is named with its place."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec
import yaml

from crkd_core.config.recipe import Recipe
from crkd_core.config.section import RecipeError


def recipe_folder() -> Path:
    """The folder of shipped recipes: ``config/recipes`` of the source tree, else the installed share folder.

    Raises:
        RecipeError: neither exists.
    """
    module = Path(__file__).resolve()
    candidates = [module.parents[2] / "config" / "recipes"]
    # <prefix>/lib/pythonX.Y/site-packages/crkd_core/config/loading.py -> <prefix>/share/crkd_ros
    if len(module.parents) > 5:
        candidates.append(module.parents[5] / "share" / "crkd_ros" / "config" / "recipes")
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


class _Loader(yaml.SafeLoader):
    """Reads 2e-4 as a number, as YAML 1.2 and ROS 2 do; YAML 1.1 wants 2.0e-4."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def plain_values(text: str) -> Any:
    """What a YAML text holds: a recipe, or one of its values.

    Raises:
        yaml.YAMLError: it cannot be read.
    """
    return yaml.load(text, _Loader)  # noqa: S506  it is a safe one


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
        values = plain_values(path.read_text())
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
