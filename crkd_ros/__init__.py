"""The ROS 2 face of crkd_core: names of topics and frames, message conversions, transforms, and (in ``nodes``) rclpy.

Nothing here imports rclpy except the modules of ``crkd_ros.nodes``; everything else works on the messages of a live
node and on those of a recorded bag alike.
"""
