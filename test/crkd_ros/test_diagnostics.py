"""The state of health that goes to /diagnostics."""

from __future__ import annotations

import numpy as np
import pytest
from small_drive import PARAMETERS

from crkd_core.runtime.detector import DetectorStatus
from crkd_ros.answers import FrameReport
from crkd_ros.diagnostics import Health, Level
from crkd_ros.parameters import from_values
from crkd_ros.pipeline import FramePipeline
from rosbag_tools.typestore import bag_messages

SECOND = 1_000_000_000
CPU = DetectorStatus("cpu", "fp32", "eager")
FRONT = "/cam_front/image_raw/compressed"


@pytest.fixture
def pipe() -> FramePipeline:
    """A pipeline without messages."""
    return FramePipeline(from_values(PARAMETERS), sweeps=6, replay=False, warn=lambda _: None)


def report(state: str, *reasons: str) -> FrameReport:
    return FrameReport(
        stamp=1,
        state=state,
        reasons=reasons,
        sensors={},
        calibration="",
        poses="",
        detections=0,
    )


@pytest.mark.parametrize(
    ("state", "level", "message"),
    [
        ("NOMINAL", Level.OK, "NOMINAL"),
        ("DEGRADED", Level.WARN, "DEGRADED: CAM_BACK: gone"),
        ("STALE", Level.ERROR, "STALE: CAM_BACK: gone"),
    ],
)
def test_level_follows_the_state_of_the_last_frame(pipe: FramePipeline, state: str, level: Level, message: str):
    health = Health()
    health.answered(report("NOMINAL"), {"latency": 1.0})
    health.answered(
        report(state, *(["CAM_BACK: gone"] if state != "NOMINAL" else [])), {"latency": 3.0, "network": 20.0}
    )
    status = health.status(pipe, 0, detector=CPU)
    assert (status.level, status.message) == (level, message)
    assert status.values["state"] == state
    assert status.values["latency mean (ms)"] == "2.0"
    assert status.values["latency max (ms)"] == "3.0"
    assert status.values["network mean (ms)"] == "20.0"


def test_silence_is_an_error_unless_nobody_listens(pipe: FramePipeline):
    assert Health().status(pipe, 0, detector=CPU).level is Level.ERROR
    assert Health().status(pipe, 0, detector=CPU, listening=False).level is Level.OK


def test_trouble_is_reported_once_and_then_only_counted(pipe: FramePipeline):
    health = Health()
    broken = bag_messages().CompressedImage(format="jpeg", data=np.zeros(4, dtype=np.uint8))
    pipe.on_message(FRONT, broken, 0)
    health.answered(report("NOMINAL"), {"latency": 1.0})
    status = health.status(pipe, SECOND, detector=CPU)
    assert status.level is Level.WARN
    assert status.message == f"messages that cannot be used on {FRONT}"
    health.answered(report("NOMINAL"), {"latency": 1.0})
    status = health.status(pipe, 2 * SECOND, detector=CPU)
    assert status.level is Level.OK
    assert status.values[f"malformed {FRONT}"] == "1"


def test_dropped_frames_are_a_warning_and_failures_an_error(pipe: FramePipeline):
    health = Health(dropped=3)
    health.answered(report("NOMINAL"), {"latency": 1.0})
    assert health.status(pipe, 0, detector=CPU).message == "3 frames dropped: slower than the trigger"
    health.failed = 1
    assert health.status(pipe, 1, detector=CPU).level is Level.ERROR


def test_rates_and_ages_are_per_sensor(pipe: FramePipeline):
    health = Health()
    health.status(pipe, 0, detector=CPU)
    for i in range(24):
        pipe.received[FRONT] += 1
        pipe.assembler.camera("CAM_FRONT", i * SECOND // 12, b"", i * SECOND // 12)
    values = health.status(pipe, 2 * SECOND, detector=CPU).values
    assert values["CAM_FRONT rate (Hz)"] == "12.00"
    assert values["CAM_FRONT age (ms)"] == "83"
    assert values["RADAR_FRONT age (ms)"] == "never"


def test_how_the_detector_runs_is_told_and_a_slow_gpu_warned_of(pipe: FramePipeline, monkeypatch: pytest.MonkeyPatch):
    health = Health()
    health.answered(report("NOMINAL"), {"latency": 1.0})
    values = health.status(pipe, 0, detector=CPU).values
    assert (values["device"], values["precision"], values["backend"]) == ("cpu", "fp32", "eager")
    assert not [name for name in values if "GPU" in name]

    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (3 << 30, 4 << 30))
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 500 << 20)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 600 << 20)
    health.answered(report("NOMINAL"), {"latency": 1.0})
    status = health.status(pipe, 0, detector=DetectorStatus("cuda:0", "fp16", "eager", ("no graphs here",)))
    assert (status.level, status.message) == (Level.WARN, "the detector runs eagerly, slowly: no graphs here")
    memory = {name: size for name, size in status.values.items() if name.startswith("GPU memory")}
    assert memory == {
        "GPU memory allocated (MiB)": "500",
        "GPU memory reserved (MiB)": "600",
        "GPU memory free (MiB)": "3072",
        "GPU memory total (MiB)": "4096",
    }
