from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from crkd_core.geometry.transforms import transform
from crkd_ros.conversions import (
    ConversionError,
    Messages,
    SampleAnnotation,
    annotation_message,
    annotation_of,
)

T = transform([0.8, 0.01, -0.02, -0.6], [715.688912104, 1810.036635514847, 0.0])


@pytest.fixture
def annotation() -> SampleAnnotation:
    values = {
        "sample_token": "s",
        "scene_name": "scene-0916",
        "scene_token": "t",
        "stamp": 1_538_984_233_547_259_000,
        "T_world_from_base": T.tolist(),
        "objects": [
            {
                "token": "a",
                "instance_token": "i",
                "category": "vehicle.car",
                "attributes": ["vehicle.moving"],
                "visibility": "v80-100",
                "num_lidar_pts": 196,
                "num_radar_pts": 3,
                "translation": [1761.755, 1223.132, 0.857],
                "size": [1.759, 4.422, 1.805],
                "rotation": [0.9784513638759053, 0.0, 0.0, -0.2064774286196456],
                "velocity": [0.1, -8.3, 0.0],
            },
            {
                "token": "b",
                "instance_token": "j",
                "category": "static_object.bicycle_rack",
                "attributes": [],
                "visibility": "",
                "num_lidar_pts": 0,
                "num_radar_pts": 0,
                "translation": [1.0, 2.0, 3.0],
                "size": [2.0, 8.0, 1.4],
                "rotation": [1.0, 0.0, 0.0, 0.0],
                "velocity": None,
            },
        ],
    }
    return msgspec.convert(values, SampleAnnotation)


def test_round_trip_is_exact(messages: Messages, sent: Callable[[Any], Any], annotation: SampleAnnotation) -> None:
    found = annotation_of(sent(annotation_message(messages, annotation)))
    assert found == annotation
    np.testing.assert_array_equal(found.pose, T)
    assert (found.objects[0].velocity, found.objects[1].velocity) == ((0.1, -8.3, 0.0), None)


def changed(annotation: SampleAnnotation, **values: Any) -> Any:
    from rosbag_tools.typestore import bag_messages

    content = json.loads(annotation_message(bag_messages(), annotation).data)
    content.update(values)
    return bag_messages().String(data=json.dumps({k: v for k, v in content.items() if v is not None}))


def test_another_schema_is_refused(annotation: SampleAnnotation) -> None:
    with pytest.raises(ConversionError, match="schema 'crkd_ros/annotation/99' is not known"):
        annotation_of(changed(annotation, schema="crkd_ros/annotation/99"))


def test_missing_field_is_named(annotation: SampleAnnotation) -> None:
    with pytest.raises(ConversionError, match=r"/annotations: .*`sample_token`"):
        annotation_of(changed(annotation, sample_token=None), source="/annotations")


def test_wrong_type_is_located(annotation: SampleAnnotation) -> None:
    objects = [{"token": 5}]
    with pytest.raises(ConversionError, match=r"\$\.objects\[0\]\.token"):
        annotation_of(changed(annotation, objects=objects))


@pytest.mark.parametrize("text", ["", "no JSON", "[1]"])
def test_other_strings_are_refused(messages: Messages, text: str) -> None:
    with pytest.raises(ConversionError, match="annotations: "):
        annotation_of(messages.String(data=text))
