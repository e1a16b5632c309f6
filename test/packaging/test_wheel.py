"""What pip and colcon install: the three packages, and everything they look for in the share folder."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("crkd_core", "crkd_ros", "rosbag_tools", "config", "launch", "training", "weights", "interfaces", "resource")
FILES = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources (a build writes beside them)."""
    work = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, work)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    result = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = work.glob("crkd_ros-*.whl")
    return zipfile.ZipFile(path)


def shared(wheel: zipfile.ZipFile) -> set[str]:
    """The files below ``share/crkd_ros``."""
    pattern = re.compile(r"crkd_ros-[^/]+\.data/data/share/crkd_ros/(.+)")
    return {found[1] for found in map(pattern.fullmatch, wheel.namelist()) if found}


def test_only_the_three_packages_are_importable(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/", maxsplit=1)[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.startswith("crkd_ros-")} == {"crkd_core", "crkd_ros", "rosbag_tools"}


def test_every_module_is_packed(wheel: zipfile.ZipFile) -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("crkd_core", "crkd_ros", "rosbag_tools")
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= set(wheel.namelist())


def test_share_folder_holds_what_lies_beside_the_packages(wheel: zipfile.ZipFile) -> None:
    expected = {"package.xml"}
    for pattern in (
        "config/**/*.*",
        "launch/*.py",
        "training/*.py",
        "training/slurm/*.sbatch",
        "weights/**/*.*",
        "interfaces/*/msg/*.msg",
    ):
        expected |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file()}
    assert shared(wheel) == expected


def test_every_command_has_its_module(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    scripts = configparser.ConfigParser(delimiters=["="])
    scripts.read_string(wheel.read(name).decode())
    for command, target in scripts["console_scripts"].items():
        module, _, function = target.partition(":")
        path = f"{module.replace('.', '/')}.py"
        assert path in wheel.namelist(), f"{command}: no {path}"
        assert f"def {function}(" in wheel.read(path).decode(), f"{command}: no {function} in {path}"


def test_ament_finds_the_package(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("share/ament_index/resource_index/packages/crkd_ros") for name in wheel.namelist())


def test_one_version(wheel: zipfile.ZipFile) -> None:
    version = ET.parse(ROOT / "package.xml").getroot().findtext("version")  # noqa: S314 - our own file
    assert Path(wheel.filename or "").name.startswith(f"crkd_ros-{version}-")
