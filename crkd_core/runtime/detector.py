"""The one entry point for inference: ``Detector(checkpoint)(frame) -> Detections``."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch

from crkd_core.cli import UserError
from crkd_core.config import Recipe
from crkd_core.data.encode import encode
from crkd_core.models.decode import Decoded
from crkd_core.models.folding import folded
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.types import Boxes3D, Detections, NetworkInput, SensorFrame

Precision = Literal["fp32", "fp16", "bf16"]
BASE_FRAME = "base_link"


class DeviceError(UserError):
    """The device or precision asked for is not to be had here."""


class Detector:
    """A loaded, warmed-up detector. Not thread-safe: one frame at a time.

    Attributes:
        recipe: what the checkpoint was trained as.
        device: where the network runs.
        last_timings: stage -> milliseconds of the last frame: ``preprocess``, ``network`` (with decoding), ``output``
            and ``total``.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        score_threshold: float | None = None,
        recipe: str | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            checkpoint: folder with ``model.safetensors`` and ``model.json``.
            device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
            precision: of the network; geometry, pooling and decoding always run in float32.
            score_threshold: detections below it are dropped; None: the recipe's.
            recipe: name the checkpoint's recipe must have, if given.

        Raises:
            CheckpointError: missing, damaged or of another recipe.
            DeviceError: no such device, or a precision it cannot compute.
        """
        model, found = load_checkpoint(checkpoint, expected_recipe=recipe)
        self.recipe: Recipe = found.recipe
        self.device = resolved_device(device)
        self.last_timings: dict[str, float] = {}
        threshold = found.recipe.model.head.score_threshold
        self._score_threshold = threshold if score_threshold is None else score_threshold
        self._dtype = _autocast_dtype(precision, self.device)
        self._model = folded(model).to(self.device)
        self._decoders = ThreadPoolExecutor(max_workers=max(1, min(6, torch.get_num_threads())))

    def __call__(self, frame: SensorFrame) -> Detections:
        """Detect objects in one frame.

        Args:
            frame: at least one camera or radar; a missing sensor is simply not seen.

        Returns:
            Boxes in ``base_link`` at ``frame.stamp``, by falling score within each head task.

        Raises:
            DataError: an image that cannot be decoded, naming the camera.
        """
        times = [time.perf_counter()]
        inputs = encode(frame, self.recipe, pool=self._decoders)
        times.append(time.perf_counter())
        found = self._run(inputs)
        times.append(time.perf_counter())
        detections = Detections(
            boxes=Boxes3D.from_mmdet3d(found.boxes.cpu().numpy()).transformed(frame.T_base_from_bev),
            scores=found.scores.cpu().numpy(),
            labels=found.labels.cpu().numpy(),
            frame_id=BASE_FRAME,
            stamp=frame.stamp,
        )
        detections = detections.filtered(detections.scores >= self._score_threshold)
        times.append(time.perf_counter())
        stages = ("preprocess", "network", "output")
        self.last_timings = {name: 1e3 * (b - a) for name, a, b in zip(stages, times, times[1:], strict=False)}
        self.last_timings["total"] = 1e3 * (times[-1] - times[0])
        return detections

    @torch.inference_mode()
    def _run(self, inputs: NetworkInput) -> Decoded:
        reduced = torch.autocast(self.device.type, dtype=self._dtype) if self._dtype else contextlib.nullcontext()
        with reduced:
            return self._model.detect(inputs.to(self.device))[0]


def resolved_device(device: str) -> torch.device:
    """The torch device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: unknown name, or CUDA where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"device: expected auto, cpu, cuda or cuda:N, got '{device}'") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device '{device}': this machine has {torch.cuda.device_count()} CUDA devices; use cpu or auto"
        )
    return found


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    types = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in types:
        raise DeviceError(f"precision: expected one of {', '.join(types)}, got '{precision}'")
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision fp16: not for the CPU; use fp32 or bf16")
    return types[precision]
