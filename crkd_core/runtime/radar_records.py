"""CRKD's radar features from raw radar returns, on any device and with fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from crkd_core.data.radar import AMBIG_STATES, DYN_PROP_STATES, INVALID_STATES, PDH0_LEVELS
from crkd_core.types import RADAR_DTYPE

RECORD = RADAR_DTYPE.itemsize
"""Bytes of one return."""

_FLOATS = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
_STATES = ("dyn_prop", "ambig_state", "invalid_state", "pdh0")


def _offset(name: str) -> int:
    assert RADAR_DTYPE.fields is not None
    return int(RADAR_DTYPE.fields[name][1])


def features_of_records(
    records: Tensor,  # [P, RECORD]
    sweep: Tensor,  # [P]
    T_bev_from_radar: Tensor,  # [S, 3, 4]
    age: Tensor,  # [S]
    outside: float,
) -> Tensor:
    """What ``data.radar.sweep_features`` computes for every return of all sweeps.

    Args:
        records: (P, ``RECORD``) uint8, the bytes of a ``RADAR_DTYPE`` array.
        sweep: (P,) int32, the sweep of each return; -1: there is none in this row.
        T_bev_from_radar: (S, 3, 4) float64.
        age: (S,) float64, s.
        outside: where rows without a return are put along x and y: any place off the grid, m.

    Returns:
        (P, 45) float32, columns as in ``data.radar.RADAR_FEATURES``. Rows without a return are 0 but for x and y.
    """
    floats = torch.cat([records[:, _offset(n) : _offset(n) + 4] for n in _FLOATS], dim=1).contiguous()
    x, y, z, rcs, vx, vy = floats.view(torch.float32).unbind(1)
    states = torch.stack([records[:, _offset(n)] for n in _STATES], dim=1).contiguous().view(torch.int8)
    there = sweep >= 0
    T, seconds = T_bev_from_radar[sweep.clamp(min=0)], age[sweep.clamp(min=0)]
    xyz = (T[:, :, :3] * torch.stack([x, y, z], dim=1).double()[:, None]).sum(2) + T[:, :, 3]
    velocity = (T[:, :2, :2] * torch.stack([vx, vy], dim=1).double()[:, None]).sum(2)
    xyz[:, :2] += velocity * seconds[:, None]
    continuous = torch.cat([xyz, rcs.double()[:, None], velocity, seconds[:, None]], dim=1).float()
    dyn_prop, ambig, invalid, pdh0 = states.long().unbind(1)
    one_hot = [
        value[:, None] == torch.arange(count, device=records.device)
        for value, count in ((dyn_prop, DYN_PROP_STATES), (ambig, AMBIG_STATES), (invalid, INVALID_STATES))
    ]
    above = pdh0[:, None] > torch.arange(PDH0_LEVELS, device=records.device)
    features = torch.cat([continuous, *(block.float() for block in (*one_hot, above))], dim=1)
    nowhere = torch.zeros_like(features[:1])
    nowhere[:, :2] = outside
    return torch.where(there[:, None], features, nowhere)
