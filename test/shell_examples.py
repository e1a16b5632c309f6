"""The commands of a page: what a reader would type."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from scripts import script

ROOT = Path(__file__).resolve().parents[1]


def commands(page: str) -> list[list[str]]:
    """The words of every command of a page's shell blocks: continued lines joined, variables filled in."""
    found, variables = [], dict[str, str]()
    for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL):
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
    start = next((i for i, word in enumerate(words) if re.fullmatch(r"training/\w+\.py", word)), None)
    if start is not None:
        return words[start], words[start + 1 :]
    ours = (ROOT / "rosbag_tools" / f"{words[0]}.py").is_file()
    return (words[0], words[1:]) if ours else None


class UnderstoodError(Exception):
    """The arguments were read without complaint."""


def check_understood(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of ours reads these arguments without complaint; it does not run."""
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
