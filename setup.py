"""Package metadata, for pip (a virtual environment) and for colcon (an ament_python package) alike."""

from collections import defaultdict
from pathlib import Path

from setuptools import find_packages, setup

NAME = "crkd_ros"
PACKAGES = ("crkd_core", "crkd_ros", "rosbag_tools")
ROOT = Path(__file__).resolve().parent

# What lies beside the packages and is installed to share/crkd_ros, with its folders.
SHARED = (
    "config/**/*.*",
    "launch/*.py",
    "training/*.py",
    "training/slurm/*.sbatch",
    "weights/**/*.*",
    "interfaces/*/msg/*.msg",
)

ROS_WHEELS = [
    "ros-kilted-rclpy[fastrtps]",
    "ros-kilted-diagnostic-msgs",
    "ros-kilted-nav-msgs",
    "ros-kilted-sensor-msgs",
    "ros-kilted-visualization-msgs",
]

INTERFACE_BUILD_TOOLS = [
    "catkin-pkg",
    "ros-kilted-ament-cmake",
    "ros-kilted-ament-cmake-include-directories",
    "ros-kilted-ament-cmake-ros-core",
    "ros-kilted-ament-package",
    "ros-kilted-rosidl-core-generators",
    "ros-kilted-rosidl-default-generators",
    "scikit-build-core",
]


def shared_files() -> list[tuple[str, list[str]]]:
    """The data files, one entry per installed folder."""
    folders: dict[str, list[str]] = defaultdict(list)
    for pattern in SHARED:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                relative = path.relative_to(ROOT)
                folders[f"share/{NAME}/{relative.parent.as_posix()}"].append(relative.as_posix())
    return [
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *sorted(folders.items()),
    ]


setup(
    name=NAME,
    version="0.1.0",
    description="Camera + radar 3D object detection for ROS 2, trained by cross-modality distillation (CRKD)",
    maintainer="crkd_ros developers",
    maintainer_email="crkd-ros@example.com",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={"": ["py.typed", "*.yaml", "*.json", "*.xml", "*.html"]},
    data_files=shared_files(),
    zip_safe=False,
    install_requires=[
        "torch>=2.11",
        "msgspec>=0.19",
        "numpy>=1.26",
        "opencv-python-headless>=4.9",
        "pillow>=10",
        "pyyaml>=6",
        "rosbags>=0.11",
        "safetensors>=0.4",
        "scipy>=1.11",
        "tqdm>=4.65",
    ],
    extras_require={
        # The official metric. Pins numpy < 2.
        "nuscenes": ["nuscenes-devkit==1.2.0"],
        "training": ["lightning>=2.6", "matplotlib>=3.7", "tensorboard>=2.16", "torchdata>=0.11"],
        # MP4 files of drives and replays.
        "video": ["av>=12"],
        # Sparse convolution of the LiDAR teacher: exactly one of the three.
        "teacher": ["spconv==2.3.8"],
        "teacher-cu120": ["spconv-cu120==2.3.6"],
        "teacher-cu126": ["spconv-cu126==2.3.8"],
        # Real ROS 2 where no distribution is installed, and what builds the interface packages against it.
        "ros": ROS_WHEELS,
        "interfaces": INTERFACE_BUILD_TOOLS,
        "dev": [
            "hypothesis",
            "import-linter>=2",
            "mcap",
            "mcap-ros2-support",
            "mypy>=1.11",
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "ruff>=0.8",
            "scipy-stubs",
            # Tests of the LiDAR teacher; the CPU build has wheels for this machine only.
            "spconv==2.3.8; platform_machine == 'x86_64'",
            # Kernels run in its interpreter where there is no GPU; a CUDA build of torch brings its own.
            "triton>=3.6; platform_machine == 'x86_64'",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={
        "console_scripts": [
            "detector_node = crkd_ros.nodes.detector:main",
            "nuscenes_to_rosbag = rosbag_tools.nuscenes_to_rosbag:main",
            "rosbag_to_nuscenes = rosbag_tools.rosbag_to_nuscenes:main",
            "play_bag = rosbag_tools.play_bag:main",
            "record_bag = rosbag_tools.record_bag:main",
            "detect_bag = rosbag_tools.detect_bag:main",
            "evaluate_bag = rosbag_tools.evaluate_bag:main",
            "render_bag = rosbag_tools.render_bag:main",
        ],
    },
)
