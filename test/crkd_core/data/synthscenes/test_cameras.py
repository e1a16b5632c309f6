from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.data.synthscenes.cameras import render
from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.data.synthscenes.config import CameraMount, ImageSize, camera_intrinsics, camera_mounting
from crkd_core.data.synthscenes.population import Actor, Block
from crkd_core.data.synthscenes.world import Drive
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import Boxes3D, FloatArray

Stage = Callable[..., Drive]


_SIZE = ImageSize(400, 225)
_OVERCAST = Conditions("day", sun_elevation=0.8, sun_azimuth=2.5, cloud=1.0)
_NIGHT = Conditions("night", sun_elevation=-0.4, sun_azimuth=0.0)
_CAR = Actor("car", (4.6, 1.9, 1.7), 20.0, -1.75, 0.3)


def _camera(drive: Drive, name: str = "CAM_FRONT") -> CameraMount:
    return next(c for c in drive.config.cameras if c.name == name)


def _picture(drive: Drive, name: str = "CAM_FRONT", size: ImageSize = _SIZE) -> NDArray[np.int64]:
    return render(drive, _camera(drive, name), drive.start_ns, size).astype(int)


def _changed(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.abs(a - b).max(axis=2) > 6


def _outline(drive: Drive, name: str = "CAM_FRONT", size: ImageSize = _SIZE) -> FloatArray:
    """(8, 2) pixels of the first actor's box."""
    state = drive.states(drive.start_ns)
    size_3d = drive.sizes[:1]
    box = Boxes3D(np.append(state.xy[0], size_3d[0, 2] / 2)[None], size_3d, state.yaw[:1], np.zeros((1, 2)))
    T = inverse(drive.ego_pose(drive.start_ns) @ camera_mounting(_camera(drive, name)))
    points = apply(T, box.corners()[0])
    return (points / points[:, 2:] @ camera_intrinsics(_camera(drive, name), size).T)[:, :2]


@pytest.mark.parametrize("name", ["car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "bicycle"])
def test_a_body_fills_its_projected_box_and_nothing_beyond_but_its_foot(stage: Stage, name: str):
    sizes = {"pedestrian": (0.7, 0.7, 1.75), "bicycle": (1.7, 0.6, 1.1), "car": (4.6, 1.9, 1.7)}
    actor = Actor(name, sizes.get(name, (8.0, 2.6, 3.2)), 18.0, -1.75, 0.4)
    empty, full = (stage(cast, image_noise=0.0, conditions=_OVERCAST) for cast in ([], [actor]))
    seen = _changed(_picture(empty), _picture(full))
    rows, columns = np.nonzero(seen)
    corners = _outline(full)
    # Below a body the sky is hidden a little beyond its sides; apart from that, pixels agree to about one.
    shadow = 1.5 + 317 * 0.02 * actor.size[0] / 13
    margin = 1.5 + 0.15 * np.ptp(corners, axis=0)
    assert corners[:, 0].min() - shadow <= columns.min() <= corners[:, 0].min() + margin[0]
    assert corners[:, 0].max() - margin[0] <= columns.max() <= corners[:, 0].max() + shadow
    assert corners[:, 1].min() - 1.5 <= rows.min() <= corners[:, 1].min() + margin[1]
    assert corners[:, 1].max() - margin[1] <= rows.max() <= corners[:, 1].max() + shadow


def test_a_car_behind_a_building_is_invisible_and_one_before_it_is_not(stage: Stage):
    wall = Block("building", (1.0, 30.0, 10.0), 15.0, 0.0)
    alone = _picture(stage(blocks=[wall], image_noise=0.0, conditions=_OVERCAST))
    behind = _picture(stage([_CAR], [wall], image_noise=0.0, conditions=_OVERCAST))
    before = _picture(stage([_CAR._replace(s=8.0)], [wall], image_noise=0.0, conditions=_OVERCAST))
    # Colours are drawn body by body, so that the wall's own differ between stages: compare where the car would be.
    mask = np.zeros(_SIZE[::-1], dtype=np.uint8)
    hull = cv2.convexHull(_outline(stage([_CAR])).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 1)
    inside = mask.astype(bool)
    spread = [np.ptp(image[inside].reshape(-1, 3), axis=0).max() for image in (behind, alone)]
    assert spread[0] <= spread[1] + 40
    assert _changed(before, behind).sum() > 1000
    elsewhere = stage([_CAR._replace(s=25.0, d=-2.5)], [wall], image_noise=0.0, conditions=_OVERCAST)
    assert not _changed(behind, _picture(elsewhere)).any()


def test_front_and_rear_look_different(stage: Stage):
    ahead = _picture(stage([_CAR._replace(yaw=0.0)], image_noise=0.0))
    oncoming = _picture(stage([_CAR._replace(yaw=np.pi)], image_noise=0.0))
    red = [(image[..., 0] - image[..., 1] > 60).sum() for image in (ahead, oncoming)]
    assert red[0] > red[1] + 10


def test_a_wall_along_the_vehicle_is_cut_right_at_the_image_edge(stage: Stage):
    # It passes the camera's plane; without clipping its corners would land on the wrong side.
    wall = Block("wall", (100.0, 0.5, 4.0), 0.0, 3.0)
    empty, full = _picture(stage(image_noise=0.0)), _picture(stage(blocks=[wall], image_noise=0.0))
    seen = _changed(empty, full)
    assert seen[30:170, :20].mean() > 0.8  # a few of its colours are the ground's
    assert not seen[:, 220:].any()


def test_any_size_shows_the_same_picture(drive: Drive):
    large, small = (_picture(drive, size=ImageSize(w, w * 9 // 16)) for w in (800, 400))
    resized = cv2.resize(large.astype(np.float32), (400, 225), interpolation=cv2.INTER_AREA)
    assert np.abs(resized - small).mean() < 3.0


def test_the_same_stamp_gives_the_same_noise_and_another_stamp_other_noise(stage: Stage):
    drive = stage()
    camera = _camera(drive)
    first, again = (render(drive, camera, drive.start_ns, _SIZE) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != render(drive, camera, drive.start_ns + 1000, _SIZE)).any()


def test_cameras_look_where_their_names_say(stage: Stage):
    left = stage([_CAR._replace(s=1.5, d=6.25, yaw=0.0)], image_noise=0.0)
    empty = stage(image_noise=0.0)
    seen = {c.name: _changed(_picture(empty, c.name), _picture(left, c.name)).sum() for c in left.config.cameras}
    assert seen["CAM_FRONT_LEFT"] > 100
    assert seen["CAM_BACK_LEFT"] > 100
    assert seen["CAM_FRONT_RIGHT"] == seen["CAM_BACK_RIGHT"] == seen["CAM_FRONT"] == 0


_PERSON = Actor("pedestrian", (0.7, 0.7, 1.75), 20.0, -1.75, np.pi)
_RAIN = Conditions("day", sun_elevation=0.6, sun_azimuth=2.5, cloud=1.0, rain=10.0)


def _contrast(stage: Stage, actor: Actor, conditions: Conditions) -> float:
    """Greatest difference that an actor makes to the picture, 8-bit steps."""
    camera = "CAM_FRONT_LEFT" if actor.d > 10 else "CAM_FRONT"
    drives = [stage(cast, image_noise=0.0, conditions=conditions) for cast in ([], [actor])]
    empty, full = (_picture(drive, camera, ImageSize(800, 450)) for drive in drives)
    return float(np.abs(full - empty).max())


def test_by_night_people_are_seen_in_the_headlights_and_less_beyond(stage: Stage):
    night = [_contrast(stage, _PERSON._replace(s=s), _NIGHT) for s in (15.0, 90.0)]
    day = [_contrast(stage, _PERSON._replace(s=s), _OVERCAST) for s in (15.0, 90.0)]
    assert night[0] > 100
    assert night[1] / night[0] < 0.5 * day[1] / day[0]
    beside = [_contrast(stage, _PERSON._replace(s=5.0, d=20.0), c) for c in (_NIGHT, _OVERCAST)]
    assert beside[0] < 0.3 * beside[1] + 10


def test_rain_and_fog_take_contrast_with_distance(stage: Stage):
    fog = Conditions("day", sun_elevation=0.6, sun_azimuth=2.5, cloud=1.0, visibility=150.0)
    near, far = (
        _contrast(stage, _CAR._replace(s=s), fog) / _contrast(stage, _CAR._replace(s=s), _OVERCAST)
        for s in (10.0, 80.0)
    )
    assert near > 0.6
    # Of the luminance 0.05^(80 / 150) = 20 % are left.
    assert far < 0.5


def test_noise_grows_as_light_fades(stage: Stage):
    def noise(conditions: Conditions) -> float:
        clean, real = (
            _picture(stage(conditions=conditions, image_noise=scale), size=ImageSize(800, 450)) for scale in (0.0, 1.0)
        )
        return float((real - clean)[-40:].std())

    day, night = noise(_OVERCAST), noise(_NIGHT)
    assert 0.1 < day < 1.5
    assert night > 4 * day


def test_images_smear_by_night_at_speed_only(stage: Stage):
    pole = Block("pole", (0.2, 0.2, 6.0), 8.0, 5.0)

    def edge(speed: float, conditions: Conditions) -> float:
        """Greatest step between neighbouring columns around the pole's image in the left camera."""
        drive = stage(blocks=[pole], ego_speed=speed, conditions=conditions, image_noise=0.0)
        row = _picture(drive, "CAM_FRONT_LEFT")[100].mean(axis=1)
        return float(np.abs(np.diff(row)).max() / np.ptp(row))

    assert edge(14.0, _OVERCAST) > 0.4
    dusk = Conditions("dusk", sun_elevation=np.deg2rad(-5.0), sun_azimuth=0.0)
    assert edge(14.0, dusk) < 0.7 * edge(0.0, dusk)


def test_smearing_leaves_the_light_as_it_is(stage: Stage):
    dusk = Conditions("dusk", sun_elevation=np.deg2rad(-5.0), sun_azimuth=0.0)
    still, smeared = (
        _picture(stage(ego_speed=speed, conditions=dusk, image_noise=0.0), "CAM_FRONT_LEFT") for speed in (0.0, 14.0)
    )
    assert not np.array_equal(still, smeared)
    assert still.mean() == pytest.approx(smeared.mean(), rel=0.02)
    assert still.std() == pytest.approx(smeared.std(), rel=0.05)


def test_a_low_sun_veils_the_picture_unless_something_hides_it(stage: Stage):
    low = Conditions("day", sun_elevation=np.deg2rad(8.0), sun_azimuth=0.0)
    hidden = Block("building", (1.0, 6.0, 12.0), 30.0, -1.75)
    glare, shade, behind = (
        _picture(stage(blocks=blocks, conditions=conditions, image_noise=0.0), name)
        for blocks, conditions, name in (([], low, "CAM_FRONT"), ([hidden], low, "CAM_FRONT"), ([], low, "CAM_BACK"))
    )
    assert (glare.min(axis=2) > 250).sum() > 60
    assert (shade.min(axis=2) > 250).sum() == (behind.min(axis=2) > 250).sum() == 0
    # Next to the building, 6 degrees from where the sun is, its light is scattered over the sky.
    assert glare[70, 200 - 60].mean() > shade[70, 200 - 60].mean() + 3


def test_headlights_that_come_nearer_dazzle(stage: Stage):
    oncoming = Actor("car", (4.6, 1.9, 1.7), 25.0, 1.75, np.pi, manned=True)
    lit, parked = (
        _picture(stage([actor], conditions=_NIGHT, image_noise=0.0))
        for actor in (oncoming, oncoming._replace(manned=False))
    )
    left, top = np.floor(_outline(stage([oncoming])).min(axis=0)).astype(int)
    right, bottom = np.ceil(_outline(stage([oncoming])).max(axis=0)).astype(int)
    gain = (lit - parked).min(axis=2)
    assert gain[top:bottom, left:right].max() > 150
    # Scattered light around it: above, where nothing else could be brighter.
    assert gain[top - 6 : top, left:right].mean() > 4


def test_a_wet_road_mirrors_what_stands_on_it(stage: Stage):
    red = Actor("bus", (11.0, 2.9, 3.4), 25.0, -1.75, 0.0)
    for conditions, mirrored in ((_RAIN, True), (_OVERCAST, False)):
        empty, full = (stage(cast, image_noise=0.0, conditions=conditions) for cast in ([], [red]))
        seen = np.abs(_picture(full) - _picture(empty)).max(axis=2) > 25
        foot = int(np.ceil(_outline(full)[:, 1].max())) + 6
        assert (seen[foot : foot + 10, 190:215].mean() > 0.3) == mirrored


@pytest.mark.parametrize("conditions", [_NIGHT, _RAIN, replace(_NIGHT, rain=5.0)])
@pytest.mark.parametrize("size", [ImageSize(64, 36), ImageSize(67, 40)])
def test_images_may_be_tiny_and_odd(stage: Stage, conditions: Conditions, size: ImageSize):
    drive = stage([_CAR], ego_speed=9.0, conditions=conditions, supersampling=1)
    for mount in drive.config.cameras:
        assert render(drive, mount, drive.start_ns, size).shape == (size.height, size.width, 3)


def test_every_condition_gives_the_same_picture_again(stage: Stage):
    for conditions in (_OVERCAST, _NIGHT, _RAIN, replace(_NIGHT, rain=5.0)):
        first, again = (_picture(stage([_CAR], ego_speed=9.0, conditions=conditions)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
