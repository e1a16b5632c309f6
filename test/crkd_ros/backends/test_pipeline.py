"""A drive through the pipeline with the distribution's helpers: the same measurements at the same places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from ros_packages import needed
from small_drive import PARAMETERS, write_drive

from crkd_core.runtime.assembler import AssembledFrame, FrameState
from crkd_ros.backends import Backend, backend_of
from crkd_ros.conversions import message_class
from crkd_ros.parameters import from_values
from crkd_ros.pipeline import FramePipeline
from rosbag_tools.bags import open_bag
from rosbag_tools.typestore import typestore

pytestmark = pytest.mark.ros


@pytest.fixture
def distribution() -> Backend:
    for module in ("message_filters", "tf2_ros", "tf_transformations", "cv_bridge", "sensor_msgs_py.point_cloud2"):
        needed(module)
    return backend_of("distribution", slop=70_000_000)


def frames_of(path: Path, backend: Backend) -> dict[int, AssembledFrame]:
    pipe = FramePipeline(from_values(PARAMETERS), sweeps=6, replay=True, backend=backend, warn=pytest.fail)
    frames, last = [], 0
    with open_bag(path) as bag:
        for row in bag.messages():
            if row.topic in {use.topic for use in pipe.inputs}:
                name = row.message.__msgtype__
                data = bytes(typestore().serialize_cdr(row.message, name))
                frames += pipe.on_message(row.topic, deserialize_message(data, message_class(name)), row.stamp)
                last = row.stamp
    return {found.stamp: found for found in frames + pipe.flush(last)}


def test_frames_of_the_distribution_hold_what_builtin_ones_hold(tmp_path: Path, distribution: Backend) -> None:
    path = write_drive(tmp_path / "drive.mcap")
    ours, theirs = frames_of(path, backend_of("builtin", slop=0)), frames_of(path, distribution)
    assert theirs.keys() <= ours.keys()
    alike = 0
    for stamp, found in theirs.items():
        assert found.state is FrameState.NOMINAL
        a, b = ours[stamp].frame, found.frame
        assert a is not None
        assert b is not None
        np.testing.assert_allclose(a.T_world_from_base, b.T_world_from_base, atol=1e-6)
        np.testing.assert_allclose(a.T_base_from_bev, b.T_base_from_bev, atol=1e-12)
        for name, camera in a.cameras.items():
            assert camera.image == b.cameras[name].image
            np.testing.assert_allclose(camera.T_world_from_base, b.cameras[name].T_world_from_base, atol=1e-6)
        alike += a.manifest.sensors == b.manifest.sensors
        swept = {sweep.stamp: sweep for sweep in a.radars["RADAR_FRONT"]}
        for sweep in b.radars["RADAR_FRONT"]:
            if sweep.stamp in swept:
                np.testing.assert_array_equal(sweep.points, swept[sweep.stamp].points)
    assert len(theirs) >= 10
    assert alike >= 3
