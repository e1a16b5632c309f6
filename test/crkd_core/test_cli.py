import argparse
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from crkd_core.cli import ArgumentParser, UserError, finite, run


def test_a_wrong_option_is_one_line_without_the_usage_text(capsys: pytest.CaptureFixture[str]):
    def main() -> int:
        parser = ArgumentParser(prog="tool")
        parser.add_argument("--rate", type=finite)
        parser.parse_args(["--rate", "fast"])
        return 0

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: argument --rate: expected a number, got 'fast'; see tool --help\n"


def test_torchrun_can_tell_the_line_of_a_process_that_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def main() -> int:
        raise UserError("--data: no such folder")

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit):
        run(main)
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(tmp_path / "error.json"))
    said = ChildFailedError("train.py", {0: failure}).format_msg()
    assert "  traceback : error: --data: no such folder\n" in said.partition("Root Cause")[2]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "", "1,5"])
def test_options_refuse_what_is_no_finite_number(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number"):
        finite(text)


def test_unknown_option_names_it():
    with pytest.raises(UserError, match="unrecognized arguments: --nope"):
        ArgumentParser(prog="tool").parse_args(["--nope"])
