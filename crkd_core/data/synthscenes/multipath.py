"""Echoes that do not come straight: mirror images behind walls, double bounces, ambiguous bearings.

What such ghosts look like in automotive radar is described by Kraus, Scheiner, Ritter and Dietmayer, "Using Machine
Learning to Detect Ghost Images in Automotive Radar", ITSC 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.echoes import ALIASED, DOUBLE, MIRRORED, Draws, Echoes, View, pairs, polar, turned
from crkd_core.data.synthscenes.link import FAR_BEAM, LEAST_RCS, THRESHOLD, Link, received, reportable, unit_signal
from crkd_core.types import FloatArray

_FARTHEST = 30.0  # m; walls farther away mirror nothing
_NARROWEST = 3.0  # m; narrower sides are no mirrors
# The own bumper as a mirror: loss, dB; within which bearing it is flat enough, rad; from which distance on it is small
# to the beam that comes back, and to where that is followed, m. Estimates.
_OWN_LOSS, _OWN_FRONT, _OWN_SPREAD, _OWN_FARTHEST = 8.0, float(np.deg2rad(15.0)), 10.0, 30.0
_ALIASED_SHARE, _ALIASED_LOSS = 0.15, 3.0  # of echoes beside the far beam, dB
_ALIASED_SPREAD = float(np.deg2rad(3.0))  # they seem to be just outside the far beam


@dataclass(frozen=True)
class Mirrors:
    """F upright flat faces that look at a sensor, ordered by sweep.

    Attributes:
        sweep, body: (F,) int64.
        middle: (F, 2) m; normal: (F, 2) unit, towards the sensor; half: (F,) half width, m; sensor axes.
        velocity: (F, 2) m/s over ground.
        loss: (F,) dB per reflection.
    """

    sweep: NDArray[np.int64]
    body: NDArray[np.int64]
    middle: FloatArray
    normal: FloatArray
    half: FloatArray
    velocity: FloatArray
    loss: FloatArray


def mirrors(view: View, sizes: FloatArray, loss: FloatArray) -> Mirrors:
    """The faces near enough to mirror something.

    Args:
        view: the bodies.
        sizes: (N, 3) of all bodies, m.
        loss: (N,) dB per reflection, infinite for bodies that mirror nothing.
    """
    rows = np.flatnonzero(np.isfinite(loss[view.body]))
    half = sizes[view.body[rows], :2] / 2
    viewer = -turned(view.xy[rows], -view.yaw[rows])
    gap = np.abs(viewer) - half
    row, axis = np.nonzero((gap > 0) & (gap < _FARTHEST) & (half[:, ::-1] > _NARROWEST / 2))
    side = np.sign(viewer[row, axis])
    local = np.zeros((len(row), 2))
    local[np.arange(len(row)), axis] = side
    pick = rows[row]
    normal = turned(local, view.yaw[pick])
    return Mirrors(
        sweep=view.sweep[pick],
        body=view.body[pick],
        middle=view.xy[pick] + half[row, axis][:, None] * normal,
        normal=normal,
        half=half[row, 1 - axis],
        velocity=view.velocity[pick],
        loss=loss[view.body[pick]],
    )


def mirrored(echoes: Echoes, walls: Mirrors, link: Link, draws: Draws) -> tuple[Echoes, FloatArray, NDArray[np.int64]]:
    """Echoes that came and went by way of a wall, before anything hides the wall.

    They seem to come from the target's mirror image, which moves as the mirror image does: with the target's velocity
    reflected, and with twice the wall's own velocity along its normal.

    Args:
        echoes: straight echoes, ordered by sweep; only those of bodies are followed.
        walls: the mirrors.
        link: the radar equation.
        draws: random numbers.

    Returns:
        Ghosts, ordered by sweep; where on the wall each way turns, (P, 2); and the body of that wall, (P,).
    """
    strong = echoes.level > THRESHOLD + 2 * walls.loss.min(initial=np.inf)
    enough = np.flatnonzero(strong & (echoes.body >= 0))
    targets = echoes.picked(enough)
    bounds = np.searchsorted(targets.sweep, [walls.sweep, walls.sweep + 1])
    wall, target = pairs(bounds[0], bounds[1])
    front = _dot(targets.points[target] - walls.middle[wall], walls.normal[wall])
    facing = (front > 0.3) & (targets.body[target] != walls.body[wall])
    # Decided for each pair, so that a sweep draws the same random numbers in whatever batch it comes.
    facing &= targets.level[target] > THRESHOLD + 2 * walls.loss[wall]
    wall, target, front = wall[facing], target[facing], front[facing]
    normal, middle = walls.normal[wall], walls.middle[wall]
    image = targets.points[target] - 2 * front[:, None] * normal
    turn = image * (_dot(middle, normal) / _dot(image, normal))[:, None]
    offset = turn - middle
    met = np.abs(offset[:, 0] * normal[:, 1] - offset[:, 1] * normal[:, 0]) < walls.half[wall]
    wall, target, image, turn, normal = wall[met], target[met], image[met], turn[met], normal[met]
    sweep = targets.sweep[target]
    closing = _dot(targets.velocity[target] - walls.velocity[wall], normal)
    # The target reflects another way than straight: a fluctuation of its own.
    lost = link.signal(targets.sweep, targets.points, np.zeros(len(enough)), targets.unit)
    rcs = (targets.level - lost)[target] - 2 * walls.loss[wall]
    unit = unit_signal(image)
    level = received(link.signal(sweep, image, rcs, unit), draws.uniform(sweep, 1)[:, 0])
    ghosts = Echoes(
        sweep=sweep,
        body=targets.body[target],
        points=image,
        velocity=targets.velocity[target] - 2 * closing[:, None] * normal,
        level=level,
        unit=unit,
        cause=np.full(len(sweep), MIRRORED),
    )
    noticed = np.flatnonzero((level > THRESHOLD) & (level - unit > LEAST_RCS))
    return ghosts.picked(noticed), turn[noticed], walls.body[wall[noticed]]


def double_bounced(echoes: Echoes, flat: NDArray[np.bool_], link: Link, own: FloatArray, draws: Draws) -> Echoes:
    """Echoes that went to the target, back to the own vehicle, and to the target once more.

    Twice the range, twice the relative speed. Two flat faces that look at each other are two mirrors: the second way is
    like the first to a target at twice the range, less what the own face loses and lets past. ``flat`` (N,) tells which
    bodies have such faces.
    """
    distance, bearing = polar(echoes.points)
    ahead = (np.abs(bearing) < _OWN_FRONT) & (distance < _OWN_FARTHEST)
    pick = np.flatnonzero(ahead & (echoes.body >= 0) & np.append(flat, False)[echoes.body])
    source, points = echoes.picked(pick), 2 * echoes.points[pick]
    zero, unit = np.zeros(len(pick)), unit_signal(points)
    past = 10 * np.log10(1 + (distance[pick] / _OWN_SPREAD) ** 2)
    rcs = source.level - link.signal(source.sweep, source.points, zero, source.unit) - _OWN_LOSS - past
    return reportable(
        Echoes(
            sweep=source.sweep,
            body=source.body,
            points=points,
            velocity=2 * source.velocity - own[source.sweep],
            level=received(link.signal(source.sweep, points, rcs, unit), draws.uniform(source.sweep, 1)[:, 0]),
            unit=unit,
            cause=np.full(len(pick), DOUBLE),
        )
    )


def aliased(echoes: Echoes, own: FloatArray, draws: Draws) -> Echoes:
    """Echoes from the side that the far beam takes for its own: at the right range and a wrong bearing.

    Their Doppler is right, but what is compensated is the own motion along the wrong bearing. In nuScenes' files one
    return in twelve is of this kind (``invalid_state`` 7), nearly all at 9 to 12 degrees and with a speed that follows
    the vehicle's own.
    """
    distance, bearing = polar(echoes.points)
    u = draws.uniform(echoes.sweep, 2)
    pick = np.flatnonzero((np.abs(bearing) > FAR_BEAM + _ALIASED_SPREAD) & (u[:, 0] < _ALIASED_SHARE))
    source, seeming = echoes.picked(pick), np.sign(bearing[pick]) * (FAR_BEAM + _ALIASED_SPREAD * u[pick, 1])
    sight = np.stack([np.cos(seeming), np.sin(seeming)], axis=1)
    relative = _dot(source.velocity - own[source.sweep], source.points) / np.maximum(distance[pick], 1e-6)
    points = distance[pick, None] * sight
    return reportable(
        Echoes(
            sweep=source.sweep,
            body=source.body,
            points=points,
            velocity=own[source.sweep] + relative[:, None] * sight,
            level=source.level - _ALIASED_LOSS,
            unit=unit_signal(points),
            cause=np.full(len(pick), ALIASED),
        )
    )


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1])
