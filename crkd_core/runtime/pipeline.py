"""Frames through the GPU: uploads on a stream of their own, everything else in CUDA graphs of fixed shapes.

A frame is copied into one of two inboxes while the frame before it is computed; the graphs, captured once, read a third
copy. The radar branch, and where rays meet the grid when that has changed, are computed beside the image branch. There
is room for so many cameras, image bytes and radar returns (``Capacity``); a frame that needs more has the graphs
captured anew, which takes about a second. A camera that is missing keeps its place, but its pose puts all of its rays
outside the grid, so that nothing of it is summed: the result is that of a frame without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crkd_core.config import Recipe
from crkd_core.models.peak_head import FIELDS
from crkd_core.runtime.network import InferenceNetwork
from crkd_core.runtime.placement import Placement
from crkd_core.runtime.staging import (
    Capacity,
    HostFrame,
    geometry_input,
    host_frame,
    images_of_bytes,
    inbox_layout,
    radar_of_bytes,
    table_layout,
    with_radar,
    write_geometry,
    write_radar,
    write_tables,
)
from crkd_core.types import SensorFrame

_LOG = logging.getLogger(__name__)

_INBOXES = 2

_WARM_UP = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Ticket:
    """A frame under way.

    Attributes:
        done: when its boxes are there.
        results: where, in page-locked memory, see ``PeakHead.forward``.
    """

    done: torch.cuda.Event
    results: Tensor


class Pipeline:
    """A network, its graphs and the memory that frames pass through. One thread at a time.

    Attributes:
        network: what it runs.
        capacity: what there is room for now.
    """

    def __init__(self, network: InferenceNetwork, recipe: Recipe, pool: Executor) -> None:
        """Capture the graphs for a rig of six cameras of 1600 x 900 at most.

        Args:
            network: on a CUDA device.
            recipe: of the network.
            pool: threads that decode and copy images.
        """
        self.network, self._recipe, self._pool = network, recipe, pool
        self._device = next(network.parameters()).device
        self._uploads, self._stream, self._side = (torch.cuda.Stream(self._device) for _ in range(3))
        self._next, self._planned = 0, b""
        self._done: list[torch.cuda.Event] = []
        self._rebuild(Capacity() if recipe.model.camera is not None else Capacity(cameras=0))

    def submit(self, frame: SensorFrame) -> Ticket:
        """Start on a frame. The frame before the last must have been collected.

        Returns:
            Its ticket for ``collect``.

        Raises:
            DataError: an image that cannot be decoded, naming the camera.
        """
        host = host_frame(frame, self._recipe, self._pool)
        if not self.capacity.holds(host.needs):
            _LOG.info(
                "a frame needs %s, there is room for %s: CUDA graphs are captured anew", host.needs, self.capacity
            )
            self._rebuild(self.capacity.grown(host.needs))
        place, self._next = self._next, 1 - self._next
        self._done[place].synchronize()
        self._update_tables(host)
        self._upload_images(place, host)
        self._start_images(place)  # and while the GPU computes them, the host prepares the rest
        geometry = write_geometry(host, self._staging_arrays[place])
        write_radar(host, self._staging_arrays[place])
        self._upload_rest(place)
        self._finish(place, new_plan=geometry != self._planned)
        self._planned = geometry
        return Ticket(self._done[place], self._host_results[place])

    def collect(self, ticket: Ticket) -> NDArray[np.float32]:
        """Wait for a frame: (N, ``FIELDS``) boxes, see ``PeakHead.forward``, task by task."""
        ticket.done.synchronize()
        rows = ticket.results.numpy().reshape(-1, FIELDS)
        return np.asarray(rows[rows[:, 9] > 0])

    def parts(self) -> dict[str, Callable[[], object]]:
        """The graphs by name, to be timed; each works on what the last frame has left."""
        return {
            "images": self._image_graph.replay,
            "radar": self._radar_graph.replay,
            "geometry": self._plan_graph.replay,
            "boxes": self._box_graph.replay,
        }

    def prepared_images(self) -> Tensor:
        """The network's images of the last frame."""
        return images_of_bytes(self._views, self._table_views, self.network.dtype)

    @torch.inference_mode()
    def head_maps(self) -> tuple[Tensor, Tensor]:
        """The shared map and the heat map logits of the last frame."""
        plan, other, features = self._between
        return self.network.maps(features, plan, other)

    def _upload_images(self, place: int, host: HostFrame) -> None:
        staging, inbox = self._staging[place], self._inboxes[place]
        begin = [i * self.capacity.image_bytes for i in range(len(host.images))]
        strips = [_page_locked(host.strip(i)) for i in range(len(host.images))]
        staged: list[Future[None] | None] = [
            self._pool.submit(_copy, host.strip(i), staging, begin[i]) if strip is None else None
            for i, strip in enumerate(strips)
        ]
        with torch.cuda.stream(self._uploads):
            for i, (strip, copied) in enumerate(zip(strips, staged, strict=True)):
                if copied is not None:
                    copied.result()
                    strip = staging[begin[i] : begin[i] + host.strip(i).nbytes]  # noqa: PLW2901
                assert strip is not None
                inbox[begin[i] : begin[i] + len(strip)].copy_(strip, non_blocking=True)

    def _start_images(self, place: int) -> None:
        inbox = self._inboxes[place]
        with torch.cuda.stream(self._stream):
            self._stream.wait_stream(self._uploads)
            self._static[: len(inbox)].copy_(inbox, non_blocking=True)
            self._image_graph.replay()

    def _upload_rest(self, place: int) -> None:
        rest = slice(self._layout.span("intrinsics").start, self._layout.size)
        with torch.cuda.stream(self._side):
            # The last frame's boxes must have been computed before what they read is written again.
            self._side.wait_event(self._done[1 - place])
            self._static[rest].copy_(self._staging[place][rest], non_blocking=True)

    def _finish(self, place: int, *, new_plan: bool) -> None:
        with torch.cuda.stream(self._side):
            if new_plan:
                self._plan_graph.replay()
            self._radar_graph.replay()
        with torch.cuda.stream(self._stream):
            self._stream.wait_stream(self._side)
            self._box_graph.replay()
            self._host_results[place].copy_(self._results, non_blocking=True)
            self._done[place].record(self._stream)

    def _update_tables(self, host: HostFrame) -> None:
        """Bring the tables of every camera whose image size has changed to the GPU."""
        if all(old is new for old, new in zip(self._placed, host.placements, strict=False)):
            return
        for i, place in enumerate(host.placements):
            write_tables(place, host.images[i][0].nbytes, i, self._table_arrays)
            self._placed[i] = place
        with torch.cuda.stream(self._stream):
            self._tables.copy_(self._table_staging)
        self._stream.synchronize()

    def _rebuild(self, capacity: Capacity) -> None:
        """Memory for the capacity, and the graphs that read it."""
        torch.cuda.synchronize(self._device)
        with torch.cuda.device(self._device):
            self._allocate(capacity)
            self._capture()

    def _allocate(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._layout = inbox_layout(capacity)
        tables = table_layout(capacity, self._recipe.image.size)
        on_gpu = {"dtype": torch.uint8, "device": self._device}
        page_locked = {"dtype": torch.uint8, "pin_memory": True}
        self._staging = [torch.zeros(self._layout.size, **page_locked) for _ in range(_INBOXES)]  # type: ignore[call-overload]
        self._staging_arrays = [self._layout.arrays(memory) for memory in self._staging]
        pixels = self._layout.span("intrinsics").start
        self._inboxes = [torch.zeros(pixels, **on_gpu) for _ in range(_INBOXES)]  # type: ignore[call-overload]
        self._static = torch.zeros(self._layout.size, **on_gpu)  # type: ignore[call-overload]
        self._table_staging = torch.zeros(tables.size, dtype=torch.uint8)
        self._table_arrays = tables.arrays(self._table_staging)
        self._tables = torch.zeros(tables.size, **on_gpu)  # type: ignore[call-overload]
        self._placed: list[Placement | None] = [None] * capacity.cameras
        self._planned = b""
        self._done = [torch.cuda.Event() for _ in range(_INBOXES)]
        # Matrices that can be inverted, and no radar return, for the runs before the capture.
        arrays = self._staging_arrays[0]
        for name in ("intrinsics", "T_bev_from_cam", "image_augment"):
            arrays[name][:] = np.eye(arrays[name].shape[-1])
        arrays["sweep"][:] = -1
        self._static.copy_(self._staging[0])
        self._views, self._table_views = self._layout.views(self._static), tables.views(self._tables)

    def _capture(self) -> None:
        network, recipe, views = self.network, self._recipe, self._views
        geometry = geometry_input(views, recipe)

        def image_features() -> Tensor | None:
            if recipe.model.camera is None:
                return None
            return network.image_features(self.prepared_images())

        def radar_map() -> Tensor:
            return network.radar_map(with_radar(geometry, radar_of_bytes(views, recipe)))

        # Graphs that run beside each other must not share memory.
        memory, side_memory = torch.cuda.graph_pool_handle(), torch.cuda.graph_pool_handle()
        # cuDNN's own choice of algorithm: a search takes longer than it gains, and may choose differently next time.
        algorithms = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), algorithms:
            self._plan_graph, plan = captured(lambda: network.plan(geometry), self._side, side_memory)
            self._radar_graph, other = captured(radar_map, self._side, side_memory)
            self._image_graph, features = captured(image_features, self._stream, memory)
            for graph in (self._plan_graph, self._radar_graph, self._image_graph):
                graph.replay()
            torch.cuda.synchronize(self._device)
            self._box_graph, self._results = captured(
                lambda: network.boxes(features, plan, other), self._stream, memory
            )
        self._between = (plan, other, features)  # graphs write and read them: they must stay
        torch.cuda.synchronize(self._device)
        self._host_results = [torch.zeros(self._results.shape, pin_memory=True) for _ in range(_INBOXES)]


def _page_locked(strip: NDArray[np.uint8]) -> Tensor | None:
    """The strip as bytes that the GPU can fetch by itself; None if it lies in ordinary memory."""
    if not (strip.flags.c_contiguous and strip.flags.writeable):
        return None
    own: Tensor = torch.from_numpy(strip)
    return own.view(-1) if own.is_pinned() else None


def _copy(strip: NDArray[np.uint8], staging: Tensor, begin: int) -> None:
    np.copyto(staging[begin : begin + strip.nbytes].numpy().reshape(strip.shape), strip)


def captured(step: Callable[[], T], stream: torch.cuda.Stream, memory: object) -> tuple[torch.cuda.CUDAGraph, T]:
    """A step as a CUDA graph, and what it returned: tensors that every replay writes again.

    Args:
        step: without host synchronisation; it is run a few times first, so that libraries choose their algorithms.
        stream: to run and capture on.
        memory: handle of the pool that graphs replayed one after the other share.
    """
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with theirs: a training that evaluates on its way pins its next batches meanwhile.
    mode = "thread_local"
    with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode=mode):  # type: ignore[arg-type]
        result = step()
    return graph, result


def pinned_image(height: int, width: int) -> NDArray[np.uint8]:
    """An RGB image in page-locked memory, from which frames reach the GPU without a copy on the host.

    It must not be written to while a frame that holds it is under way.

    Raises:
        RuntimeError: no CUDA device.
    """
    image: NDArray[np.uint8] = torch.empty((height, width, 3), dtype=torch.uint8, pin_memory=True).numpy()
    return image
