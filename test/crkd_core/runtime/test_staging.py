"""A frame that passed through fixed shapes gives the boxes of the frame."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from micro import micro_frame, micro_recipe
from torch import Tensor

from crkd_core.config import Recipe, recipe_from_dict, recipe_to_dict
from crkd_core.data.encode import encode
from crkd_core.models.detector import FusionDetector
from crkd_core.models.folding import folded
from crkd_core.runtime.network import InferenceNetwork
from crkd_core.runtime.staging import (
    Capacity,
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
from crkd_core.types import NetworkInput, SensorFrame

ROOM = Capacity(cameras=3, image_bytes=3 * 96 * 72, taps=11, returns=100, sweeps=7)


def staged(frame: SensorFrame, recipe: Recipe) -> NetworkInput:
    """What the GPU would compute from the bytes of a frame."""
    with ThreadPoolExecutor(2) as pool:
        host = host_frame(frame, recipe, pool)
    assert ROOM.holds(host.needs)
    layout, tables = inbox_layout(ROOM), table_layout(ROOM, recipe.image.size)
    memory = torch.randint(0, 255, (layout.size,), dtype=torch.uint8)  # what an earlier frame has left
    table_memory = torch.zeros(tables.size, dtype=torch.uint8)
    arrays = layout.arrays(memory)
    write_geometry(host, arrays)
    write_radar(host, arrays)
    for i, place in enumerate(host.placements):
        strip = host.strip(i)
        arrays["pixels"][i, : strip.nbytes] = strip.ravel()
        write_tables(place, host.images[i][0].nbytes, i, tables.arrays(table_memory))
    views = layout.views(memory)
    images = images_of_bytes(views, tables.views(table_memory), torch.float32)
    return replace(with_radar(geometry_input(views, recipe), radar_of_bytes(views, recipe)), images=images)


def reduced(recipe: Recipe) -> Recipe:
    values = recipe_to_dict(recipe)
    values["image"]["resize"] = "pil_bicubic"
    return recipe_from_dict(values, source="test")


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return micro_frame(3).frame


def test_network_input_is_that_of_encode(frame: SensorFrame) -> None:
    recipe = reduced(micro_recipe())
    expected, found = encode(frame, recipe), staged(frame, recipe)
    count = len(expected.images)
    torch.testing.assert_close(found.images[:count], expected.images, rtol=0, atol=1e-4)
    for name in ("intrinsics", "T_bev_from_cam", "image_augment"):
        torch.testing.assert_close(getattr(found, name)[:count], getattr(expected, name), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.radar[: len(expected.radar)], expected.radar, rtol=1e-6, atol=1e-5)
    beyond = found.radar[len(expected.radar) :]
    assert (beyond[:, :2] < recipe.bev.x_range[0] - 1).all()
    assert not beyond[:, 2:].any()


def boxes(network: InferenceNetwork, inputs: NetworkInput) -> Tensor:
    with torch.inference_mode():
        rows = network(inputs)[0].flatten(0, 1)
    return rows[rows[:, 9] > 0]


@pytest.mark.parametrize("missing", ["nothing", "a camera", "all cameras", "radars"])
def test_boxes_are_those_of_the_detector_whatever_is_missing(frame: SensorFrame, missing: str) -> None:
    torch.manual_seed(1)
    recipe = reduced(micro_recipe())
    model = FusionDetector(recipe).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    changes: dict[str, Any] = {
        "nothing": {},
        "a camera": {"cameras": {"CAM_FRONT_LEFT": frame.cameras["CAM_FRONT_LEFT"]}},
        "all cameras": {"cameras": {}},
        "radars": {"radars": {}},
    }
    given = replace(frame, **changes[missing])
    network = InferenceNetwork(model, dtype=torch.float32, fuse=False)
    found = boxes(network, staged(given, recipe))
    expected = folded(model).detect(encode(given, recipe))[0]
    assert len(found) == len(expected.scores) > 5
    assert torch.equal(found[:, 10].long(), expected.labels)
    torch.testing.assert_close(found[:, 9], expected.scores, rtol=1e-4, atol=1e-5)
    # Where two scores are the same up to rounding, their boxes may change places; cells without measurements all are.
    distance = (found[:, None, :9] - expected.boxes[None]).abs().amax(-1)
    assert (distance.min(1).values < 1e-3).float().mean() > (0.99 if given.cameras else 0.9)


def test_encoded_images_are_decoded_as_the_recipe_says(frame: SensorFrame) -> None:
    """A JPEG far larger than the target: at half scale for ``reduced``."""
    values = recipe_to_dict(micro_recipe())
    values["image"] |= {"size": [32, 32], "resized_width": 40, "resize": "reduced"}
    recipe = recipe_from_dict(values, source="test")
    camera = frame.cameras["CAM_FRONT"]
    smooth = cv2.GaussianBlur(np.asarray(camera.image), (9, 9), 3)
    jpeg = cv2.imencode(".jpg", smooth)[1].tobytes()
    one = replace(frame, cameras={"CAM_FRONT": replace(camera, image=jpeg)})
    with ThreadPoolExecutor(1) as pool:
        assert host_frame(one, recipe, pool).images[0].shape == (36, 48, 3)
    expected, found = encode(one, recipe).images[0], staged(one, recipe).images[0]
    assert (found - expected).abs().max() <= 2.01 / (255 * 0.224)


def test_room_grows_to_what_is_needed() -> None:
    needed = Capacity(cameras=2, image_bytes=9, taps=13, returns=5000, sweeps=3)
    grown = Capacity().grown(needed)
    assert grown.holds(needed)
    assert grown.holds(Capacity())
    assert grown.returns == 8192


@pytest.mark.parametrize("without", ["camera", "radar"])
def test_a_recipe_without_a_branch(frame: SensorFrame, without: str) -> None:
    values = recipe_to_dict(reduced(micro_recipe()))
    values["model"] |= {without: None, "fuser": {"type": "conv", "channels": 16}}
    recipe = recipe_from_dict(values, source="test")
    torch.manual_seed(1)
    model = FusionDetector(recipe).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    found = boxes(InferenceNetwork(model, dtype=torch.float32, fuse=False), staged(frame, recipe))
    expected = folded(model).detect(encode(frame, recipe))[0]
    assert len(found) == len(expected.scores) > 5
    torch.testing.assert_close(found[:, 9], expected.scores, rtol=1e-4, atol=1e-5)
