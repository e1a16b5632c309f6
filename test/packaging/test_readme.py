"""What the README tells a user to type works with the programs as they are."""

import importlib
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from scripts import script

from crkd_ros.specs import SPECS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BAG_TOOLS = ("nuscenes_to_rosbag", "play_bag", "record_bag", "detect_bag", "evaluate_bag", "render_bag")


def commands() -> list[list[str]]:
    """The words of every line of the README's shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    return [words for block in blocks for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the program's own parser read the arguments."""
    program, *arguments = words
    if program == "python":
        module = script(Path(arguments.pop(0)).name)
    else:
        if program in ("play_bag", "record_bag"):
            pytest.importorskip("rclpy")
        module = importlib.import_module(f"rosbag_tools.{program}")
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    if hasattr(module, "build_parser"):
        module.build_parser().parse_args(arguments)
    elif hasattr(module, "_arguments"):
        module._arguments(arguments)
    else:
        module.arguments()


def is_ours(words: list[str]) -> bool:
    return words[0] in BAG_TOOLS or (words[0] == "python" and words[1].startswith("training/"))


@pytest.mark.parametrize("words", filter(is_ours, commands()), ids=lambda words: words[0])
def test_commands_are_understood(words: list[str], monkeypatch: pytest.MonkeyPatch):
    parse(words, monkeypatch)


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
        assert f'"{argument.split(":=")[0]}"' in launch


def test_parameters_of_the_node_exist():
    [words] = [words for words in commands() if words[0] == "detector_node"]
    given = [value.split(":=")[0] for flag, value in pairwise(words) if flag == "-p"]
    assert given
    assert set(given) <= {spec.name for spec in SPECS}
