"""What the README tells a user to type works with the programs as they are."""

import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BAG_TOOLS = ("nuscenes_to_rosbag", "play_bag", "record_bag", "detect_bag", "evaluate_bag", "render_bag")


def commands() -> list[list[str]]:
    """The words of every line of the README's shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    return [words for block in blocks for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the program's own parser read the arguments."""
    program, *arguments = words
    if program == "python":
        module = script(arguments.pop(0))
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


@pytest.mark.parametrize("words", [c for c in commands() if c[0] in (*BAG_TOOLS, "python")], ids=lambda words: words[0])
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


def test_recipes_in_the_table_exist():
    names = re.findall(r"^\| `([a-z0-9_]+)` \|", README, flags=re.MULTILINE)
    recipes = {path.stem for path in (ROOT / "config" / "recipes").glob("*.yaml")}
    assert "student_r50" in names
    assert {name for name in names if name.endswith(("_r50", "_tiny", "_swint"))} <= recipes


def test_launch_arguments_exist():
    [words] = [words for words in commands() if words[:2] == ["ros2", "launch"]]
    launch = (ROOT / "launch" / "detector.launch.py").read_text()
    for argument in words[4:]:
        assert f'"{argument.split(":=")[0]}"' in launch
