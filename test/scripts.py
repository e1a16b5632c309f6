"""The scripts of ``training/``, loaded as modules or started as programs; they belong to no package."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1] / "training"
SMALL = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{FOLDER.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
"""What a script that is started as a program has in its environment: one thread, and the packages of this tree."""


def script(name: str) -> ModuleType:
    """A fresh module of the script of that file name."""
    path = FOLDER / name
    spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
