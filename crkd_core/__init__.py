"""Camera + radar 3D object detection: models, data, training and runtime. Imports neither ROS nor rosbags."""

import os

# Before torch loads its OpenMP runtime: threads that wait for each other sleep instead of spinning. Beside other busy
# processes (a bag player, a recorder, other tests) spinning on two cores made a frame three to five times slower:
# student_tiny's network took 1.1 to 2.4 s instead of 0.36 to 0.5 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
