"""SynthScenes' radar and LiDAR files next to real ones: the same order of everything a network reads.

Run with ``-m nuscenes -rP --log-level=info`` to see the figures. Bounds are wide: two scenes on one side, other roads
on the other.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.data.radar_pcd import read_lidar_bin, read_radar_pcd
from crkd_core.data.synthscenes import keyframe_stamps, make_drive
from crkd_core.data.synthscenes.lidar import lidar_sweep
from crkd_core.data.synthscenes.radar import radar_sweeps

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.nuscenes
_SEEDS = range(4, 16)
_OWN_VEHICLE, _FARTHEST = 2.5, {"radar": 100.0, "lidar": 70.0}  # m; what SynthScenes simulates
_STATES = {"none": 0, "weak": 4, "wrong bearing": 7, "beside a stronger one": 11, "several targets": 16}


def _distance(points: NDArray[np.void]) -> NDArray[np.float32]:
    return np.sqrt(points["x"] ** 2 + points["y"] ** 2 + points["z"] ** 2)


def _radar_figures(sweeps: Iterable[NDArray[np.void]]) -> dict[str, float]:
    kept = [s[_distance(s) < _FARTHEST["radar"]] for s in sweeps]
    p = np.concatenate(kept)
    speed = np.hypot(p["vx_comp"], p["vy_comp"])
    figures = {"points per sweep": float(np.mean([len(s) for s in kept])), "most points": max(len(s) for s in kept)}
    for name, values in (("rcs, dBsm", p["rcs"]), ("range, m", _distance(p))):
        figures |= {f"{name}, {q} %": float(np.percentile(values, q)) for q in (10, 50, 90)}
    figures |= {f"invalid_state {name}": float((p["invalid_state"] == code).mean()) for name, code in _STATES.items()}
    figures |= {f"pdh0 {code}": float((p["pdh0"] == code).mean()) for code in (1, 3, 6)}
    figures |= {"ambig_state 3": float((p["ambig_state"] == 3).mean()), "moving": float((speed > 1).mean())}
    return figures | {
        "dyn_prop 1": float((p["dyn_prop"] == 1).mean()),
        "dyn_prop 3": float((p["dyn_prop"] == 3).mean()),
    }


def _lidar_figures(sweeps: Iterable[NDArray[np.void]]) -> dict[str, float]:
    kept = [s[(_distance(s) > _OWN_VEHICLE) & (_distance(s) < _FARTHEST["lidar"])] for s in sweeps]
    p = np.concatenate(kept)
    distance = _distance(p)
    figures = {"points per sweep": float(np.mean([len(s) for s in kept]))}
    for name, values in (("intensity", p["intensity"]), ("range, m", distance)):
        figures |= {f"{name}, {q} %": float(np.percentile(values, q)) for q in (10, 50, 90)}
    road = np.abs(p["z"] + 1.84) < 0.25
    return figures | {f"road, {a} to {b} m": float((road & (distance > a) & (distance < b)).mean())
                      for a, b in ((5, 10), (10, 20), (20, 40))}  # fmt: skip


def _compared(title: str, real: dict[str, float], ours: dict[str, float]) -> None:
    logger.info("%-40s %10s %12s", title, "nuScenes", "SynthScenes")
    for name, value in real.items():
        logger.info("%-40s %10.3f %12.3f", name, value, ours[name])


def _close(real: dict[str, float], ours: dict[str, float], name: str, factor: float) -> None:
    assert real[name] / factor < ours[name] < real[name] * factor, name


def test_radar_sweeps_are_like_those_of_nuscenes(nuscenes_root: Path):
    real = _radar_figures(read_radar_pcd(f) for f in sorted(nuscenes_root.glob("samples/RADAR_*/*.pcd")))
    drives = [make_drive(seed) for seed in _SEEDS]
    scans = [(d, [(m, s) for m in d.config.radars for s in keyframe_stamps(d)[2::8]]) for d in drives]
    ours = _radar_figures(s.points for d, batch in scans for s in radar_sweeps(d, batch))
    _compared("radar", real, ours)
    _close(real, ours, "points per sweep", 1.6)
    _close(real, ours, "range, m, 50 %", 1.5)
    _close(real, ours, "moving", 2.5)
    for name in ("invalid_state none", "ambig_state 3", "dyn_prop 1", "pdh0 1"):
        _close(real, ours, name, 1.4)
    for name in ("invalid_state weak", "invalid_state wrong bearing", "invalid_state beside a stronger one", "pdh0 3"):
        _close(real, ours, name, 2.0)
    for q in (10, 50, 90):
        assert abs(real[f"rcs, dBsm, {q} %"] - ours[f"rcs, dBsm, {q} %"]) < 4
    assert ours["most points"] <= 125


def test_lidar_sweeps_are_like_those_of_nuscenes(nuscenes_root: Path):
    real = _lidar_figures(read_lidar_bin(f) for f in sorted(nuscenes_root.glob("samples/LIDAR_TOP/*.bin")))
    drives = [make_drive(seed) for seed in _SEEDS]
    dry = [d for d in drives if not d.conditions.wet]
    assert len(dry) > 5
    ours = _lidar_figures(lidar_sweep(d, s).points for d in dry for s in keyframe_stamps(d)[2::8])
    _compared("lidar, dry", real, ours)
    _close(real, ours, "points per sweep", 1.3)
    _close(real, ours, "range, m, 50 %", 1.7)
    _close(real, ours, "intensity, 50 %", 1.5)
    _close(real, ours, "intensity, 90 %", 1.5)
    _close(real, ours, "road, 5 to 10 m", 1.5)
    assert ours["road, 20 to 40 m"] < 0.03  # met too flatly
