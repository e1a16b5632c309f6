"""docs/training.md: its commands and changes of a recipe are understood, its messages are those of the programs."""

from __future__ import annotations

import re

import pytest
from scripts import script
from shell_examples import ROOT, check_understood, commands, program_of
from torch.distributed.run import get_args_parser

from crkd_core.config import load_recipe

PAGE = (ROOT / "docs" / "training.md").read_text()
COMMANDS = commands(PAGE)
OURS = [found for words in COMMANDS if (found := program_of(words)) is not None]


@pytest.mark.parametrize(("program", "arguments"), OURS, ids=[program for program, _ in OURS])
def test_commands_are_understood(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    check_understood(program, arguments, monkeypatch)


def test_torchrun_understands_its_part():
    lines = [get_args_parser().parse_args(words[1:]) for words in COMMANDS if words[0] == "torchrun"]
    assert [line.nnodes for line in lines] == ["1:1", "1:1", "2"]
    assert all((ROOT / line.training_script).is_file() for line in lines)


def test_changes_of_a_recipe_are_ones():
    changes = [change for text in re.findall(r"`((?:train\.\w+=\S+ ?)+)`", PAGE) for change in text.split()]
    assert len(changes) >= 7
    for change in changes:
        script("train.py").changed(load_recipe("student_r50"), [change])


def test_messages_are_those_of_the_programs():
    """The words of a message between its values stand in a source; literals over several lines are joined."""
    paths = [*(ROOT / "crkd_core").rglob("*.py"), *(ROOT / "training").glob("*.py")]
    sources = re.sub(r'"\s*\n\s*f?"', "", "".join(path.read_text() for path in paths))
    table = PAGE.partition("| message | why, what to do |")[2].partition("\n\n")[0]
    messages = [re.sub("0:30:00|train.steps=", "{}", row) for row in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)]
    others = {"unrecognized arguments: {}", "CUDA out of memory", "RendezvousTimeoutError"}  # argparse, PyTorch
    assert len(messages) > 12
    for message in set(messages) - others:
        for words in message.split("{}"):
            assert words in sources, message
