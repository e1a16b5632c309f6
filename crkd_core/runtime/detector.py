"""The one entry point for inference: ``Detector(checkpoint)(frame) -> Detections``."""

from __future__ import annotations

import importlib.util
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from crkd_core.cli import UserError
from crkd_core.config import Recipe, recipe_from_dict, recipe_to_dict
from crkd_core.data.encode import encode
from crkd_core.models.detector import FusionDetector
from crkd_core.models.folding import folded
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.runtime.network import InferenceNetwork, pays_to_compile, unsupported
from crkd_core.runtime.pipeline import Pipeline
from crkd_core.types import Boxes3D, Detections, NetworkInput, SensorFrame

_LOG = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "bf16"]
BASE_FRAME = "base_link"

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class DeviceError(UserError):
    """The device or precision asked for is not to be had here."""


@dataclass(frozen=True)
class DetectorStatus:
    """How a detector runs.

    Attributes:
        device: where the network runs, for example ``cuda:0``.
        precision: of the network.
        backend: ``graphs``: everything from the pixels to the boxes in CUDA graphs. ``eager``: operation by operation,
            images prepared on the CPU; on a CPU the only way.
        missing: why a GPU does not run ``graphs``; empty if it does, and on a CPU.
    """

    device: str
    precision: Precision
    backend: Literal["graphs", "eager"]
    missing: tuple[str, ...] = ()


class _Backend(Protocol):
    """Frames to rows of ``peak_head.FIELDS`` values, in two steps."""

    def submit(self, frame: SensorFrame) -> Any:
        """Begin with a frame."""

    def collect(self, ticket: Any) -> NDArray[np.float32]:
        """Finish it."""


class _Eager:
    """Encodes on the CPU, then runs the network as it is written."""

    def __init__(
        self, model: FusionDetector, device: torch.device, dtype: torch.dtype, pool: ThreadPoolExecutor
    ) -> None:
        self._model, self._device, self._dtype, self._pool = folded(model).to(device), device, dtype, pool

    def submit(self, frame: SensorFrame) -> NetworkInput:
        return encode(frame, self._model.recipe, pool=self._pool)

    @torch.inference_mode()
    def collect(self, ticket: NetworkInput) -> NDArray[np.float32]:
        reduced = self._dtype != torch.float32
        current = torch.cuda.device(self._device if self._device.type == "cuda" else -1)  # where kernels are launched
        with current, torch.autocast(self._device.type, dtype=self._dtype if reduced else None, enabled=reduced):
            found = self._model.detect(ticket.to(self._device))[0]
        rows = torch.cat([found.boxes, found.scores[:, None], found.labels[:, None].float()], dim=1)
        return np.asarray(rows.cpu().numpy())


class Detector:
    """A loaded, warmed-up detector. Not thread-safe: one frame at a time, or two through ``submit`` and ``collect``.

    Attributes:
        recipe: what the checkpoint was trained as.
        device: where the network runs.
        status: how it runs.
        last_timings: stage -> milliseconds of the last frame: ``preprocess`` (on the host), ``network`` (until its
            boxes are there), ``output`` and ``total``, the sum.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        score_threshold: float | None = None,
        recipe: str | None = None,
        strict: bool = False,
    ) -> None:
        """Load a checkpoint.

        Args:
            checkpoint: folder with ``model.safetensors`` and ``model.json``.
            device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
            precision: of the network; geometry, sums over cells and suppression are never below float32.
            score_threshold: in place of the recipe's, higher or lower: boxes that do not score more are dropped.
            recipe: name the checkpoint's recipe must have, if given.
            strict: refuse a GPU on which something of the fast path is missing, rather than run eagerly there.

        Raises:
            CheckpointError: missing, damaged or of another recipe.
            DeviceError: no such device, a precision it cannot compute, a GPU without Triton, or (``strict``) without
                the rest of the fast path.
        """
        model, found = load_checkpoint(checkpoint, expected_recipe=recipe)
        if score_threshold is not None:
            model.recipe = with_threshold(found.recipe, score_threshold)
        self.recipe: Recipe = model.recipe
        self.device = resolved_device(device)
        check_kernels(self.device)
        self.last_timings: dict[str, float] = {}
        dtype = _dtype(precision, self.device)
        self._pool = ThreadPoolExecutor(max_workers=max(1, min(6, torch.get_num_threads())))
        self._backend, self.status = self._started(model, precision, dtype)
        say_what_is_missing(self.status, strict=strict)

    def _started(
        self, model: FusionDetector, precision: Precision, dtype: torch.dtype
    ) -> tuple[_Backend, DetectorStatus]:
        """The fastest way to run the model here, and which one that is."""
        missing: tuple[str, ...] = ()
        if self.device.type == "cuda":
            reason = unsupported(model)
            if reason is None:
                try:
                    compiled = pays_to_compile(self.recipe)
                    network = InferenceNetwork(model, dtype=dtype, compiled=compiled).to(self.device)
                    pipeline = Pipeline(network, self.recipe, self._pool)
                except RuntimeError as error:
                    reason = f"CUDA graphs could not be captured ({error})"
                else:
                    return pipeline, DetectorStatus(str(self.device), precision, "graphs")
            missing = (reason,)
        eager = _Eager(model, self.device, dtype, self._pool)
        return eager, DetectorStatus(str(self.device), precision, "eager", missing)

    def __call__(self, frame: SensorFrame) -> Detections:
        """Detect objects in one frame.

        Args:
            frame: at least one camera or radar; a missing sensor is simply not seen.

        Returns:
            Boxes in ``base_link`` at ``frame.stamp``, by falling score within each head task.

        Raises:
            DataError: an image that cannot be decoded, naming the camera.
        """
        return self.collect(self.submit(frame))

    def submit(self, frame: SensorFrame) -> Submitted:
        """Begin with a frame; with ``collect`` the two halves of a call.

        A GPU can compute one frame while the next one is submitted: submit frame n + 1, then collect frame n. Each is
        to be collected before the one after the next is submitted.

        Raises:
            DataError: an image that cannot be decoded, naming the camera.
        """
        start = time.perf_counter()
        ticket = self._backend.submit(frame)
        return Submitted(frame, ticket, time.perf_counter() - start)

    def collect(self, submitted: Submitted) -> Detections:
        """Wait for a frame that was submitted; see ``__call__`` for the result."""
        frame, times = submitted.frame, [time.perf_counter()]
        rows = self._backend.collect(submitted.ticket)
        times.append(time.perf_counter())
        detections = Detections(
            boxes=Boxes3D.from_mmdet3d(rows[:, :9]).transformed(frame.T_base_from_bev),
            scores=rows[:, 9].astype(np.float64),
            labels=rows[:, 10].astype(np.int64),
            frame_id=BASE_FRAME,
            stamp=frame.stamp,
        )
        times.append(time.perf_counter())
        stages = {"preprocess": submitted.seconds, "network": times[1] - times[0], "output": times[2] - times[1]}
        self.last_timings = {name: 1e3 * seconds for name, seconds in stages.items()}
        self.last_timings["total"] = sum(self.last_timings.values())
        return detections


@dataclass(frozen=True)
class Submitted:
    """A frame under way.

    Attributes:
        frame: the measurements.
        ticket: the backend's name for it.
        seconds: that its submission took.
    """

    frame: SensorFrame
    ticket: Any
    seconds: float


def with_threshold(recipe: Recipe, score: float) -> Recipe:
    """The recipe of a head that finds boxes of more than this score.

    Raises:
        RecipeError: not between 0 and 1.
    """
    values = recipe_to_dict(recipe)
    values["model"]["head"]["score_threshold"] = score
    return recipe_from_dict(values, source="score_threshold")


def check_kernels(device: torch.device) -> None:
    """Check that the operations that a GPU needs can be compiled there.

    Raises:
        DeviceError: Triton is missing.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise DeviceError(f"device {device}: needs Triton, which is not installed (pip install triton); or use cpu")


def say_what_is_missing(status: DetectorStatus, *, strict: bool) -> None:
    """Warn of what makes a detector slow, or refuse it.

    Raises:
        DeviceError: ``strict``, and something is missing.
    """
    for reason in status.missing:
        if strict:
            raise DeviceError(f"device {status.device}: asked not to run without CUDA graphs, but {reason}")
        _LOG.warning("the detector runs eagerly on %s, which is slow: %s", status.device, reason)


def resolved_device(device: str) -> torch.device:
    """The torch device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: unknown name, or CUDA where there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"device: expected auto, cpu, cuda or cuda:N, got '{device}'") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device '{device}': this machine has {torch.cuda.device_count()} CUDA devices; use cpu or auto"
        )
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision not in _DTYPES:
        raise DeviceError(f"precision: expected one of {', '.join(_DTYPES)}, got '{precision}'")
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision fp16: not for the CPU; use fp32 or bf16")
    return _DTYPES[precision]
