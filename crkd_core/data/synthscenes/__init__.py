"""SynthScenes: a seeded simulator of drives as a nuScenes-like vehicle measures them.

``make_drive(seed)`` gives a drive, ``frame_at(drive, stamp)`` a whole annotated frame at any of its stamps without
touching a file, ``writer.write_nuscenes`` a data set in nuScenes v1.0 format with the same measurements.

Geometry is simple and honest: things are hard to see because they are far, small or hidden. NumPy, OpenCV and the
standard library only.
"""

from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.data.synthscenes.frames import frame_at, keyframe_stamps
from crkd_core.data.synthscenes.world import Drive, DriveKey, SynthError, make_drive

__all__ = ["Drive", "DriveKey", "SynthConfig", "SynthError", "frame_at", "keyframe_stamps", "make_drive"]
