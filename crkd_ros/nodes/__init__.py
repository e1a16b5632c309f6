"""ROS 2 nodes; only these modules of the package import rclpy."""
