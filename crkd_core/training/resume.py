"""The resume state of a run: what it says of the run beside what Lightning keeps in it, and what may go on from it."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import torch

from crkd_core.config import Recipe, recipe_to_dict
from crkd_core.training.callbacks import TrainingError
from crkd_core.training.options import TrainingOptions, samples_per_step

RESUME_FILE = "last.ckpt"
"""Name of the resume state in the folder of a run."""
SHOWN = 5
"""Changed values that a message names."""


def entries(recipe: Recipe, options: TrainingOptions) -> dict[str, Any]:
    """What a resume state says of its run, in plain values; the recipe is the student's, if there is a teacher."""
    return {
        "samples_per_step": samples_per_step(recipe.train),
        "seed": options.seed,
        "recipe": recipe_to_dict(recipe),
    }


def steps_done(out: Path) -> int:
    """How many steps the run in a folder has behind it.

    Raises:
        TrainingError: there is no resume state.
    """
    return int(_state(out)["global_step"])


def steps_to_go_on_from(out: Path, now: dict[str, Any]) -> int:
    """How many steps the run in a folder has behind it, if what starts now is the same run.

    Args:
        out: folder of the run.
        now: ``entries`` of what starts.

    Raises:
        TrainingError: there is no resume state, or it is of a run of other ``entries``: steps of another size would
            make the place in the data and the learning rate others, another recipe or seed anything.
    """
    before, path = _state(out), out / RESUME_FILE
    for key in now:
        if key not in before:
            raise TrainingError(
                f"resume: {path} has no entry '{key}', so it is not of this version of the training; start anew in "
                "another --out"
            )
    if before["samples_per_step"] != now["samples_per_step"]:
        raise TrainingError(
            f"resume: {before['samples_per_step']} samples a step before, now {now['samples_per_step']} "
            "(train.batch_size x train.accumulate x processes); keep their product"
        )
    changes = differences(_kept(before), _kept(now))
    if changes:
        told = [f"{key} was {reprlib.repr(old)}, is {reprlib.repr(new)}" for key, (old, new) in changes.items()]
        more = f" and {len(told) - SHOWN} more" * (len(told) > SHOWN)
        raise TrainingError(
            f"resume: {path} is of a run with other values: {'; '.join(told[:SHOWN])}{more}; of a recipe only "
            "train.batch_size and train.accumulate may change: go on with the values before, or start anew in another "
            "--out"
        )
    return int(before["global_step"])


def differences(before: Any, now: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Where nested dictionaries differ: dotted key -> the value in the one and in the other; None: absent."""
    if before == now:
        return {}
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return {key: (before, now)}
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**now, **before}:
        found |= differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    return found


def count_on(checkpoint: dict[str, Any], *, accumulate: int) -> None:
    """Let Lightning, which counts batches of one process, go on at the step of a resume state.

    It would go on at the batch number it has saved, which is another place if the batches are of another size now.

    Args:
        checkpoint: the loaded resume state, changed in place; of Lightning 2.6.
        accumulate: batches of one step from now on.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counters in (progress["total"], progress["current"]):
        # In a state that was saved between two steps, the last batch of the first is not counted as completed yet.
        shift = checkpoint["global_step"] * accumulate - counters["ready"]
        for name in counters:
            counters[name] += shift


def _kept(entry: dict[str, Any]) -> dict[str, Any]:
    """What must stay the same from start to start, by the names that users know."""
    recipe = entry["recipe"]
    train = {name: value for name, value in recipe["train"].items() if name not in ("batch_size", "accumulate")}
    return {"--seed": entry["seed"], **recipe, "train": train}


def _state(out: Path) -> dict[str, Any]:
    last = out / RESUME_FILE
    if not last.is_file():
        raise TrainingError(f"resume: {last} not found; start without --resume, or name the folder of the run")
    # Tensors are read when they are used, that is, not here.
    state: dict[str, Any] = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    return state
