"""H.264 video files (MP4, yuv420p) that ordinary players and browsers open."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crkd_core.cli import UserError
from crkd_core.drawing.style import Image

if TYPE_CHECKING:
    from typing_extensions import Self


class VideoError(UserError):
    """A video that cannot be written."""


class VideoWriter:
    """Writes RGB pictures of one size at a constant rate; a context manager.

    The file appears under its name when the block ends without an error.
    """

    def __init__(self, path: Path, *, fps: float, quality: int = 23) -> None:
        """Prepare a file; the size is that of the first picture.

        Args:
            path: ``.mp4`` file, replaced if it exists.
            fps: pictures per second.
            quality: x264's constant rate factor: 18 nearly lossless, 28 small.

        Raises:
            VideoError: PyAV is not installed, or the rate is not positive.
        """
        try:
            import av
        except ImportError as error:
            raise VideoError(f"video needs PyAV ({error}); install it with: pip install 'crkd_ros[video]'") from None
        if not fps > 0:
            raise VideoError(f"video {path}: rate: expected frames per second > 0, got {fps}")
        self._av = av
        self._path = path
        self._partial = path.with_name(f".{path.stem}.partial.mp4")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._quality = quality
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._container = self._av.open(str(self._partial), mode="w", options={"movflags": "+faststart"})
        except OSError as error:
            raise VideoError(f"video {self._path}: cannot be written: {error.strerror}") from None
        return self

    def write(self, picture: Image) -> None:
        """Append a picture (H, W, 3) RGB; an odd last row or column is cut off (the pixel format wants even sizes).

        Raises:
            VideoError: another size than the first picture.
        """
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            # Half the time of "veryfast" for files half as large again: rendering shares the cores.
            self._stream.options = {"crf": str(self._quality), "preset": "superfast"}
        elif (self._stream.width, self._stream.height) != (width, height):
            raise VideoError(
                f"video {self._path}: expected pictures of {self._stream.width}x{self._stream.height}, "
                f"got {width}x{height}"
            )
        frame = self._av.VideoFrame.from_ndarray(picture[:height, :width], format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = kind is None and self._stream is not None
        try:
            try:
                if complete:
                    self._container.mux(self._stream.encode())
            finally:
                self._container.close()
            if complete:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)
        if kind is None and not complete:
            raise VideoError(f"video {self._path}: no picture to write")
