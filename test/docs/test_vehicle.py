"""docs/vehicle.md says what the node does: its example loads, its names exist, and every diagnostic is explained."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from small_drive import PARAMETERS

from crkd_core.data.synthscenes import SynthConfig
from crkd_core.runtime.assembler import FrameState
from crkd_core.runtime.detector import DetectorStatus
from crkd_ros.answers import FrameReport
from crkd_ros.diagnostics import Health
from crkd_ros.launch_arguments import descriptions
from crkd_ros.parameters import from_values, load_parameters
from crkd_ros.pipeline import FramePipeline
from crkd_ros.specs import SPECS, camera_specs, radar_specs

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "vehicle.md").read_text()
DETECTOR_STAGES = ("preprocess", "network", "output", "total")
"""Of ``Detector.last_timings``."""


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"\n#{2,3} ", PAGE.split(f" {title}\n", 1)[1], maxsplit=1)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the tables in a section, without their heads."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = {i - 1 for i, row in enumerate(cells) if set(row[0]) <= {"-", " "}}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def spans(text: str) -> list[str]:
    """What is written as code."""
    return re.findall(r"`([^`]+)`", text)


# --------------------------------------------------------------------------------------------------- diagnostics


def assembler_counts() -> set[str]:
    """Everything that the frame assembler counts."""
    source = (ROOT / "crkd_core" / "runtime" / "assembler.py").read_text()
    counted = [node.slice for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Subscript)]
    found = {key.value for key in counted if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return found | {state.value for state in FrameState}


@pytest.fixture
def published_keys(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every key that a status can have, with <SENSOR>, <topic> and <stage> in place of names."""
    for name in ("memory_allocated", "memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda _device: 2**20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2**20, 2**21))
    pipe = FramePipeline(from_values(PARAMETERS), sweeps=6, replay=False, warn=lambda _: None)
    pipe.malformed["/some/topic"] += 1
    pipe.assembler.counts.update(assembler_counts())
    health, how = Health(), DetectorStatus("cuda:0", "fp16", "graphs")
    health.status(pipe, 1_000_000_000, detector=how)
    report = FrameReport(stamp=1, state="NOMINAL", reasons=(), sensors={}, calibration="", poses="", detections=0)
    health.answered(report, dict.fromkeys((*DETECTOR_STAGES, "latency"), 1.0))
    keys = health.status(pipe, 2_000_000_000, detector=how).values
    sensors = {use.sensor for use in pipe.inputs if use.sensor}
    stages = {*DETECTOR_STAGES, "latency"}
    found = set()
    for key in keys:
        first, _, rest = key.partition(" ")
        of_stage = first in stages and rest in ("mean (ms)", "max (ms)")
        name = "<SENSOR>" if first in sensors else "<stage>" if of_stage else first
        found.add(f"{name} {rest}".strip().replace("/some/topic", "<topic>"))
    return found


def test_every_diagnostic_is_explained_and_no_other(published_keys: set[str]):
    explained = {key for row in rows("Diagnostics") for key in spans(row[0])}
    assert len(published_keys) > 20
    assert published_keys - explained == set()
    assert explained - published_keys == set()


def test_every_message_of_a_status_is_explained():
    source = ast.parse((ROOT / "crkd_ros" / "diagnostics.py").read_text())
    (verdict,) = (node for node in ast.walk(source) if isinstance(node, ast.FunctionDef) and node.name == "_verdict")
    (findings,) = (node.value for node in ast.walk(verdict) if isinstance(node, ast.Assign) and len(node.targets) == 1
                   and ast.unparse(node.targets[0]) == "findings")  # fmt: skip
    assert isinstance(findings, ast.List)
    messages = [row[1] for row in rows("Diagnostics") if row[0] in ("OK", "WARN", "ERROR")]
    for finding in findings.elts:
        assert isinstance(finding, ast.Tuple)
        level, text = ast.unparse(finding.elts[1]).split(".")[1], finding.elts[2]
        parts = text.values if isinstance(text, ast.JoinedStr) else [text]
        words = [str(part.value).strip(" ;:") for part in parts if isinstance(part, ast.Constant)]
        longest = re.split("[:;,]", max(words, key=len))[0]
        assert any(longest in message for message in messages), f"{level}: {longest}"
    assert len(messages) == len(findings.elts) + 1  # NOMINAL


@pytest.mark.ros
def test_every_stage_is_explained():
    from crkd_ros.nodes.outputs import STAGES

    explained = [stage for row in rows("Stages") for stage in spans(row[0])]
    assert sorted(explained) == sorted({*STAGES, *DETECTOR_STAGES})


# ------------------------------------------------------------------------------------------------ names that exist


def test_the_example_of_a_rig_file_is_one(tmp_path: Path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "my_vehicle.yaml"
    file.write_text(example)
    parameters = load_parameters(file)
    assert list(parameters.cameras) == ["CAM_FRONT", "CAM_BACK"]
    assert parameters.cameras["CAM_BACK"].offset == 0
    assert parameters.T_base_from_bev is not None
    # The BEV frame has x to the right and y ahead, the camera's optical axis points back, its y axis down.
    assert parameters.T_base_from_bev[:3, :2].round(3).T.tolist() == [[0, -1, 0], [1, 0, 0]]
    T_base_from_cam = parameters.cameras["CAM_BACK"].T_base_from_cam
    assert T_base_from_cam is not None
    assert T_base_from_cam[:3, 1:3].round(3).T.tolist() == [[0, 0, -1], [-1, 0, 0]]


def test_the_parameters_of_the_simulated_example_are_those_of_its_rig():
    parameters = load_parameters(ROOT / "config" / "synthscenes.yaml")
    offsets = {name: camera.offset for name, camera in parameters.cameras.items()}
    assert offsets == {camera.name: round(-camera.lead_ms * 1e6) for camera in SynthConfig().cameras}
    assert "params_file:=config/synthscenes.yaml" in section("Set up")


def test_every_argument_is_one_of_the_launch_files():
    sources = "".join((ROOT / "launch" / name).read_text() for name in ("detector.launch.py", "replay.launch.py"))
    own = set(re.findall(r'(?:^    |DeclareLaunchArgument\()"(\w+)"', sources, re.MULTILINE))
    given = set(re.findall(r"\b([\w.]+):=", PAGE)) - {"name"}  # -p name:=value
    assert len(given) > 12
    assert given - own - set(descriptions()) == set()


def test_every_parameter_in_the_tables_exists():
    known = {spec.name for spec in (*SPECS, *camera_specs("*"), *radar_specs("*"))}
    known |= {name.removeprefix("camera.*.") for name in known}
    named = [span for title in ("Tuning", "Symptoms", "Frames") for row in rows(title) for span in spans(" ".join(row))]
    parameters = {re.split(r":=|: ", name)[0].replace("<class>", "car") for name in named}
    lookalikes = {name for name in parameters if re.fullmatch(r"[a-z_*.]+_(ms|threshold|frame|id|topic)", name)}
    lookalikes |= {name for name in parameters if re.match(r"(camera|radar|tracker|class_threshold)\.", name)}
    assert len(lookalikes) > 10
    assert lookalikes - known == set()


def test_outputs_have_their_default_names():
    outputs = {str(spec.default) for spec in SPECS if spec.name.endswith("_topic")}
    named = {span for row in rows("Topics and quality of service") for span in spans(row[0])}
    published = {name.replace("/<stage>", "") for name in named if name.startswith("detection")}
    assert published == {name for name in outputs if name.startswith("detection")}


def test_reasons_are_quoted_as_they_are_told():
    folders = (ROOT / "crkd_ros", ROOT / "crkd_core" / "runtime")
    sources = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings over two lines
    quoted = [span for row in rows("Symptoms") for span in spans(row[0]) if " " in span and "(ms)" not in span]
    assert len(quoted) > 6
    for quote in quoted:
        words = re.sub(
            r"'(back_optical_frame|lidar_top|base_link|\.\.\.)'|^bev: |^no (?=image)|CAM_FRONT|\.\.\.|\(known: .*",
            "\n",
            quote,
        )
        for part in filter(None, map(str.strip, words.split("\n"))):
            assert part.strip("()") in sources, quote


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / "docs" / file).exists(), target
        titles = [line.lstrip("#").strip() for line in PAGE.splitlines() if line.startswith("#")]
        assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}, target
