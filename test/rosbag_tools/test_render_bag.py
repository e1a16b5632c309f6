from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import LAST, MS, START, car_seen, write_detections, write_drive

from crkd_core.cli import UserError
from crkd_core.drawing.style import CLASS_COLORS, TRUTH
from crkd_ros import topics
from rosbag_tools.render_bag import render

av = pytest.importorskip("av")
SMALL = ["--width", "960", "--no-progress"]
FRONT = (slice(0, 180), slice(320, 640))
"""The panel of the front camera on a sheet of 960 pixels."""


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(image.astype(int) - color) < 45).all(axis=-1).sum())


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path / "drive.mcap")


@pytest.fixture
def found(tmp_path: Path) -> Path:
    return write_detections(tmp_path / "found.mcap", [car_seen(s) for s in range(START + 10 * MS, LAST, 100 * MS)])


def test_a_sheet_shows_detections_and_ground_truth(drive: Path, found: Path, tmp_path: Path):
    sheet = tmp_path / "out" / "sheet.png"
    assert render([str(drive), "--detections", str(found), "--sheet", str(sheet), *SMALL]) == 0
    image = picture(sheet)
    assert image.shape == (540, 960, 3)
    assert count(image[FRONT], CLASS_COLORS["car"]) > 20
    assert count(image[180:, 600:], CLASS_COLORS["car"]) > 20


def test_without_detections_ground_truth_is_drawn_alone(drive: Path, tmp_path: Path):
    assert render([str(drive), "--sheet", str(tmp_path / "sheet.png"), *SMALL]) == 0
    image = picture(tmp_path / "sheet.png")
    assert count(image[FRONT], TRUTH) > 20
    assert count(image[FRONT], CLASS_COLORS["car"]) == 0


def test_a_bag_without_annotations_is_drawn_too(found: Path, tmp_path: Path):
    drive = write_drive(tmp_path / "blind.mcap", without=[topics.ANNOTATIONS])
    assert render([str(drive), "--detections", str(found), "--sheet", str(tmp_path / "sheet.png"), *SMALL]) == 0
    image = picture(tmp_path / "sheet.png")
    assert count(image[FRONT], CLASS_COLORS["car"]) > 20
    assert count(image[FRONT], TRUTH) == 0


def test_the_moment_of_the_sheet_can_be_chosen(drive: Path, found: Path, tmp_path: Path):
    for name, at in (("a", "0"), ("b", "1.2")):
        args = ["--detections", str(found), "--sheet", str(tmp_path / f"{name}.png"), "--at", at]
        assert render([str(drive), *args, *SMALL]) == 0
    assert (picture(tmp_path / "a.png")[FRONT] != picture(tmp_path / "b.png")[FRONT]).any()


def test_a_damaged_image_leaves_its_panel_empty(found: Path, tmp_path: Path):
    drive = write_drive(tmp_path / "damaged.mcap", damaged_image=True)
    assert render([str(drive), "--detections", str(found), "--sheet", str(tmp_path / "sheet.png"), *SMALL]) == 0
    image = picture(tmp_path / "sheet.png")
    assert count(image[FRONT], CLASS_COLORS["car"]) == 0
    assert count(image[180:, 600:], CLASS_COLORS["car"]) > 20


def frames(path: Path) -> tuple[float, list[np.ndarray]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate), [f.to_ndarray(format="rgb24") for f in container.decode(stream)]


def test_a_video_has_one_picture_per_answer_at_their_rate(drive: Path, found: Path, tmp_path: Path):
    assert render([str(drive), "--detections", str(found), "--video", str(tmp_path / "v.mp4"), *SMALL]) == 0
    rate, pictures = frames(tmp_path / "v.mp4")
    assert rate == pytest.approx(10.0)
    assert len(pictures) == 15
    assert pictures[0].shape == (540, 960, 3)
    assert np.abs(pictures[0][FRONT].astype(int) - pictures[-1][FRONT]).max() > 60


def test_a_video_keeps_the_time_of_the_drive_over_missing_answers(drive: Path, tmp_path: Path):
    stamps = [s for s in range(START, LAST, 100 * MS) if not START + 400 * MS <= s <= START + 700 * MS]
    found = write_detections(tmp_path / "gap.mcap", [car_seen(s) for s in stamps])
    assert render([str(drive), "--detections", str(found), "--video", str(tmp_path / "v.mp4"), *SMALL]) == 0
    rate, pictures = frames(tmp_path / "v.mp4")
    assert rate == pytest.approx(10.0)
    assert len(stamps) == 11
    assert len(pictures) == 15
    for held in pictures[4:8]:
        assert np.abs(held[FRONT].astype(int) - pictures[3][FRONT]).mean() < 2


def refused(args: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        render([*args, "--no-progress"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_of_the_user_are_one_line(drive: Path, found: Path, tmp_path: Path):
    sheet = ["--sheet", str(tmp_path / "sheet.png")]
    other = str(write_detections(tmp_path / "other.mcap", [car_seen(START + 100_000 * MS)]))
    lost = str(write_drive(tmp_path / "lost.mcap", without=[topics.TF, topics.ODOMETRY]))
    assert "nothing to do" in refused([str(drive)])
    assert "no such file" in refused([str(tmp_path / "nothing.mcap"), *sheet])
    assert "no message on /detections" in refused([str(drive), "--detections", str(drive), *sheet])
    assert "no pose of 'base_link'" in refused([lost, *sheet])
    assert "of the same drive?" in refused([str(drive), "--detections", other, *sheet])
    assert "ending in .png" in refused([str(drive), "--sheet", "sheet.jpg"])
    assert "ending in .mp4" in refused([str(drive), "--video", "drive.avi"])
    assert "at least 640" in refused([str(drive), *sheet, "--width", "100"])
    assert "no camera" in refused([str(found), *sheet])
    assert "at most 7680" in refused([str(drive), *sheet, "--width", "100000"])  # memory for it would not be there
    assert "expected a number" in refused([str(drive), *sheet, "--radius", "inf"])
    assert "expected a number" in refused([str(drive), *sheet, "--at", "nan"])
