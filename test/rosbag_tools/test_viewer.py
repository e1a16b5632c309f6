"""The page to look around in holds the drive itself, and places boxes where cameras see them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import LAST, MS, START, car_seen, write_detections, write_drive

from crkd_core.cli import UserError
from crkd_core.types import DETECTION_CLASSES
from rosbag_tools.render_bag import VIEWER_IMAGE_WIDTH, render, thinned


def page(tmp_path: Path, *options: str) -> tuple[str, dict[str, Any]]:
    drive = write_drive(tmp_path / "drive.mcap")
    found = write_detections(tmp_path / "found.mcap", [car_seen(s) for s in range(START + 10 * MS, LAST, 100 * MS)])
    out = tmp_path / "out" / "view.html"
    assert render([str(drive), "--detections", str(found), "--html", str(out), "--no-progress", *options]) == 0
    text = out.read_text()
    data = text.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    return text, json.loads(data)


def test_page_needs_nothing_else(tmp_path: Path) -> None:
    text, data = page(tmp_path)
    for word in ("http:", "https:", 'src="', "href", "@DATA@", "import "):
        assert word not in text, word
    assert data["title"] == "scene-made-up"
    assert data["classes"] == list(DETECTION_CLASSES)
    assert data["cameras"] == ["cam_front"]


def test_moments_come_at_the_rate_asked_for(tmp_path: Path) -> None:
    _, data = page(tmp_path, "--html-rate", "5")
    assert [frame["t"] for frame in data["frames"]] == pytest.approx([0.2 * i for i in range(8)])
    assert thinned([0, 90 * MS, 110 * MS, 400 * MS], 10.0) == [0, 90 * MS, 400 * MS]
    with pytest.raises(UserError, match="--html-rate: expected above 0"):
        render([str(tmp_path / "drive.mcap"), "--html", str(tmp_path / "v.html"), "--html-rate", "0"])


def test_boxes_lie_where_the_camera_sees_them(tmp_path: Path) -> None:
    _, data = page(tmp_path)
    frame = data["frames"][0]
    [box], [truth] = frame["detections"], frame["truth"]
    assert (box[0], box[1]) == (0, pytest.approx(0.9))
    assert truth[2:9] == pytest.approx(box[2:9], abs=0.01)
    expected = car_seen(START + 10 * MS).boxes
    assert box[2:5] == pytest.approx(expected.centers[0], abs=1e-3)
    assert box[9:] == pytest.approx(expected.velocities[0], abs=1e-3)
    # The camera looks ahead from (1, 0, 1.5); f = 160 pixels of an image 320 wide, 10 ms before at 8 m/s.
    u, v, w = np.array(frame["cameras"]["cam_front"]["projection"]) @ [*box[2:5], 1.0]
    scale = VIEWER_IMAGE_WIDTH / 320
    x, y, z = box[2] - 1.0, box[3], box[4] - 1.5
    assert u / w == pytest.approx(scale * (160 - 160 * y / x), abs=2)
    assert v / w == pytest.approx(scale * (90 - 160 * z / x), abs=2)
    image = cv2.imdecode(np.frombuffer(base64.b64decode(frame["cameras"]["cam_front"]["image"]), np.uint8), 1)
    assert image.shape == (315, VIEWER_IMAGE_WIDTH, 3)
    assert sorted(point[0] for point in data["frames"][4]["radar"]) == pytest.approx([13.5, 33.5], abs=0.5)
