"""Tools for recorded drives: convert nuScenes to rosbag2, play, detect, evaluate, render."""
