from pathlib import Path

import cv2
import numpy as np
import pytest

from crkd_core.drawing.video import VideoError, VideoWriter

av = pytest.importorskip("av")


def picture(k: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A red square that moves right on grey."""
    image = np.full((*size, 3), 60, dtype=np.uint8)
    image[40:80, 10 * k : 10 * k + 40] = (220, 30, 30)
    return image


def test_frames_are_decoded_back_in_order_rate_and_colour(tmp_path: Path):
    path = tmp_path / "out" / "drive.mp4"
    with VideoWriter(path, fps=12) as video:
        for k in range(8):
            video.write(picture(k))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 12)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 8
    for k, frame in enumerate(frames):
        assert np.abs(frame[60, 10 * k + 20].astype(int) - (220, 30, 30)).max() < 40
        assert np.abs(frame[10, 10].astype(int) - 60).max() < 10


def test_opencv_plays_it_too(tmp_path: Path):
    with VideoWriter(tmp_path / "a.mp4", fps=11.98) as video:
        for k in range(5):
            video.write(picture(k))
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(11.98, abs=0.01)
    assert sum(capture.read()[0] for _ in range(6)) == 5


def test_odd_sizes_lose_their_last_row_and_column(tmp_path: Path):
    with VideoWriter(tmp_path / "a.mp4", fps=5) as video:
        video.write(picture(0, (121, 161)))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (160, 120)


def test_a_failed_video_leaves_no_file_and_keeps_an_older_one(tmp_path: Path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")

    def draw() -> None:
        with VideoWriter(path, fps=5) as video:
            video.write(picture(0))
            raise RuntimeError("drawing failed")

    with pytest.raises(RuntimeError, match="drawing failed"):
        draw()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"older"


def test_an_error_while_the_file_is_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    def draw() -> None:
        with VideoWriter(tmp_path / "a.mp4", fps=5) as video:
            video.write(picture(0))
            monkeypatch.setattr(Path, "replace", full_disk)

    with pytest.raises(OSError, match="no space left"):
        draw()
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_pictures_is_an_error(tmp_path: Path):
    with pytest.raises(VideoError, match="no picture"), VideoWriter(tmp_path / "a.mp4", fps=5):
        pass
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_another_size_are_refused(tmp_path: Path):
    with VideoWriter(tmp_path / "a.mp4", fps=5) as video:
        video.write(picture(0))
        with pytest.raises(VideoError, match="expected pictures of 160x120, got 100x80"):
            video.write(np.zeros((80, 100, 3), dtype=np.uint8))


def test_a_rate_that_is_not_positive_is_refused(tmp_path: Path):
    with pytest.raises(VideoError, match="frames per second > 0"):
        VideoWriter(tmp_path / "a.mp4", fps=0)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    video = VideoWriter(tmp_path / "file" / "a.mp4", fps=5)
    with pytest.raises(VideoError, match="cannot be written"):
        video.__enter__()
