"""What the README tells a user to type works with the programs as they are."""

import argparse
import importlib
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripts import script

from crkd_ros.launch_arguments import descriptions
from crkd_ros.specs import SPECS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """The words of every command of the README's shell blocks: continued lines joined, variables filled in."""
    found, variables = [], dict[str, str]()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.fullmatch(r'([A-Z]+)="(.*)"', line):
                variables[assigned[1]] = assigned[2]
                continue
            filled = re.sub(r"\$([A-Z]+)", lambda name: variables.get(name[1], name[0]), line)
            if words := shlex.split(filled, comments=True):
                found.append(words)
    return found


def program_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The program of ours that a command starts, and its arguments."""
    start = next((i for i, word in enumerate(words) if word.startswith("training/")), None)
    if start is not None:
        return words[start], words[start + 1 :]
    ours = (ROOT / "rosbag_tools" / f"{words[0]}.py").is_file()
    return (words[0], words[1:]) if ours else None


class UnderstoodError(Exception):
    """The arguments were read without complaint."""


OURS = [found for words in commands() if (found := program_of(words)) is not None]


@pytest.mark.parametrize(("program", "arguments"), OURS, ids=[program for program, _ in OURS])
def test_commands_are_understood(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    if program in ("play_bag", "record_bag"):
        pytest.importorskip("rclpy")
    if program.startswith("training/"):
        module = script(Path(program).name)
    else:
        module = importlib.import_module(f"rosbag_tools.{program}")
    read = argparse.ArgumentParser.parse_args

    def reading(*given: Any, **named: Any) -> None:
        read(*given, **named)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", reading)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(UnderstoodError):
        module.main()


def test_the_programs_of_the_data_set_are_among_them():
    assert {"training/train.py", "training/distill.py", "detect_bag", "nuscenes_to_rosbag"} <= {
        name for name, _ in OURS
    }


def test_make_targets_exist():
    targets = {words[1] for words in commands() if words[0] == "make"}
    assert {"demo", "test"} <= targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_files_that_are_linked_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_table_of_recipes_is_complete():
    table = README.partition("| recipe | |\n")[2].partition("\n\n")[0]
    names = {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert names == {path.stem for path in (ROOT / "config" / "recipes").glob("*.yaml")}


def test_launch_arguments_exist():
    [words] = [words for words in commands() if words[:2] == ["ros2", "launch"]]
    launch = (ROOT / "launch" / "detector.launch.py").read_text()
    for argument in words[4:]:
        name = argument.split(":=")[0]
        assert name in descriptions() or f'"{name}"' in launch


def test_parameters_of_the_node_exist():
    [words] = [words for words in commands() if words[0] == "detector_node"]
    given = [value.split(":=")[0] for flag, value in pairwise(words) if flag == "-p"]
    assert given
    assert set(given) <= {spec.name for spec in SPECS}
