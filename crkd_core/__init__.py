"""Camera + radar 3D object detection: models, data, training and runtime. Imports neither ROS nor rosbags."""
