"""Who converts images and point clouds, matches messages to frames, and keeps transforms.

``builtin`` is this package and needs nothing else; ``distribution`` uses the helpers of a sourced ROS distribution.
What they differ in is measured and written down in docs/inputs.md.
"""

from crkd_ros.backends.backend import BUILTIN, Assembler, Backend, BackendError, Transforms, backend_of

__all__ = ["BUILTIN", "Assembler", "Backend", "BackendError", "Transforms", "backend_of"]
