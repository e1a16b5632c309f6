"""What the README tells a user to type works with the programs as they are."""

import re
from itertools import pairwise

import pytest
from shell_examples import ROOT, check_understood, commands, program_of

from crkd_ros.launch_arguments import descriptions
from crkd_ros.specs import SPECS

README = (ROOT / "README.md").read_text()


OURS = [found for words in commands(README) if (found := program_of(words)) is not None]


@pytest.mark.parametrize(("program", "arguments"), OURS, ids=[program for program, _ in OURS])
def test_commands_are_understood(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    if program in ("play_bag", "record_bag"):
        pytest.importorskip("rclpy")
    check_understood(program, arguments, monkeypatch)


def test_the_programs_of_the_data_set_are_among_them():
    assert {"training/train.py", "training/distill.py", "detect_bag", "nuscenes_to_rosbag"} <= {
        name for name, _ in OURS
    }


def test_make_targets_exist():
    targets = {words[1] for words in commands(README) if words[0] == "make"}
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
    [words] = [words for words in commands(README) if words[:2] == ["ros2", "launch"]]
    launch = (ROOT / "launch" / "detector.launch.py").read_text()
    for argument in words[4:]:
        name = argument.split(":=")[0]
        assert name in descriptions() or f'"{name}"' in launch


def test_parameters_of_the_node_exist():
    [words] = [words for words in commands(README) if words[0] == "detector_node"]
    given = [value.split(":=")[0] for flag, value in pairwise(words) if flag == "-p"]
    assert given
    assert set(given) <= {spec.name for spec in SPECS}
