"""Parameter names of the original CRKD code and ours, one to one.

=============================================  ==========================================
original                                       ours
=============================================  ==========================================
``encoders.camera.backbone.*``, ``.neck.*``    ``camera.backbone.*``, ``camera.neck.*``
``encoders.camera.vtransform.*``               ``camera.view_transform.*``
``encoders.radar.backbone.pts_voxel_encoder.   ``radar.point_layers.*``
rfn_layers.*``
``encoders.radar.backbone.caliber.*``          ``radar.calibration.*``
``encoders.radar.backbone.                     ``radar.activation_head.*``
distill_activation_head.*``
``encoders.lidar.backbone.conv_input.*``        ``lidar.encoder.input.*``
``encoders.lidar.backbone.encoder_layers.      ``lidar.encoder.stages.0.*``
encoder_layer1.*``
``encoders.lidar.backbone.conv_out.*``         ``lidar.encoder.output.*``
``fuser.input_conv_sensor_1.*``, ``_2.*``      ``fuser.gate_camera.*``, ``fuser.gate_other.*``
``fuser.output_fuser_conv_norm.*`` (gated),    ``fuser.merge.*``
``fuser.*`` (conv)
``decoder.backbone.*``, ``decoder.neck.*``     ``decoder.stages.*``, ``decoder.neck.*``
``heads.object.shared_conv.*``                 ``head.shared.*``
``heads.object.task_heads.*``                  ``head.tasks.*``
=============================================  ==========================================

In a distiller's checkpoint the student's names carry ``_student`` after their first word
(``encoders_student.camera...``); the names without it belong to its teacher, those under ``fused_feat_affinity_loss``
to a loss. The original also stores constants of its view transform (``dx``, ``bx``, ``nx``, ``frustum``) and of Swin
(``relative_position_index``), which are recomputed here and have no counterpart (quirk Q4). Kernels of sparse
convolutions have other axes there, see ``our_value``.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

FuserType = Literal["gated", "conv"]

_ENCODER_NAMES: tuple[tuple[str, str], ...] = (
    ("encoders.camera.backbone.", "camera.backbone."),
    ("encoders.camera.neck.", "camera.neck."),
    ("encoders.camera.vtransform.", "camera.view_transform."),
    ("encoders.radar.backbone.pts_voxel_encoder.rfn_layers.", "radar.point_layers."),
    ("encoders.radar.backbone.caliber.", "radar.calibration."),
    ("encoders.radar.backbone.distill_activation_head.", "radar.activation_head."),
    ("encoders.lidar.backbone.conv_input.", "lidar.encoder.input."),
    *(
        (f"encoders.lidar.backbone.encoder_layers.encoder_layer{i + 1}.", f"lidar.encoder.stages.{i}.")
        for i in range(4)
    ),
    ("encoders.lidar.backbone.conv_out.", "lidar.encoder.output."),
)
_FUSER_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "gated": (
        ("fuser.input_conv_sensor_1.", "fuser.gate_camera."),
        ("fuser.input_conv_sensor_2.", "fuser.gate_other."),
        ("fuser.output_fuser_conv_norm.", "fuser.merge."),
    ),
    "conv": (("fuser.", "fuser.merge."),),
}
_REST: tuple[tuple[str, str], ...] = (
    ("decoder.backbone.", "decoder.stages."),
    ("decoder.neck.", "decoder.neck."),
    ("heads.object.shared_conv.", "head.shared."),
    ("heads.object.task_heads.", "head.tasks."),
)
CONSTANTS: tuple[str, ...] = ("dx", "bx", "nx", "frustum")
"""Entries of the original's view transform that are no weights."""
SWIN_CONSTANT = ".relative_position_index"
"""The same in its Swin backbone."""


def our_key(official: str, *, fuser: FuserType = "gated", distilled: bool = False) -> str | None:
    """Our name of an entry of an original checkpoint.

    Args:
        official: its name there.
        fuser: the fuser of the model.
        distilled: the entries of a distiller's student are meant; else those of a model of its own, or of a distiller's
            teacher.

    Returns:
        None for what our model does not hold: constants, the other model of a distiller, the adapters of its losses.
    """
    first, _, rest = official.partition(".")
    if distilled:
        if not first.endswith("_student"):
            return None
        official = f"{first.removesuffix('_student')}.{rest}"
    elif first.endswith("_student"):
        return None
    if is_constant(official):
        return None
    for theirs, ours in _names(fuser):
        if official.startswith(theirs):
            return ours + official.removeprefix(theirs)
    return None


def is_constant(official: str) -> bool:
    """Whether an entry of an original checkpoint is recomputed here (quirk Q4)."""
    _, _, name = official.partition(".camera.vtransform.")
    return name in CONSTANTS or official.endswith(SWIN_CONSTANT)


def our_value(official: Tensor) -> Tensor:
    """The value of one of our entries: sparse kernels (kx, ky, kz, in, out) become (out, kx, ky, kz, in)."""
    return official.permute(4, 0, 1, 2, 3).contiguous() if official.dim() == 5 else official


def official_value(ours: Tensor) -> Tensor:
    """The inverse of ``our_value``."""
    return ours.permute(1, 2, 3, 4, 0).contiguous() if ours.dim() == 5 else ours


def official_key(ours: str, *, fuser: FuserType = "gated", distilled: bool = False) -> str:
    """The original's name of one of our entries, see ``our_key``.

    Raises:
        KeyError: no such part in the original.
    """
    for theirs, prefix in _names(fuser):
        if ours.startswith(prefix):
            official = theirs + ours.removeprefix(prefix)
            if not distilled:
                return official
            first, _, rest = official.partition(".")
            return f"{first}_student.{rest}"
    raise KeyError(f"'{ours}': the original has no such entry with a {fuser} fuser")


def _names(fuser: FuserType) -> tuple[tuple[str, str], ...]:
    return (*_ENCODER_NAMES, *_FUSER_NAMES[fuser], *_REST)
