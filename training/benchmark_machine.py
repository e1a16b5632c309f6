"""What figures are measured on, for all benchmarks."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """Processor, GPU and versions."""
    cuda = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if cuda else "none",
        "cpu": cpu_name(),
        "cpus": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
        "cudnn": str(torch.backends.cudnn.version()) if cuda else "none",
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """What /proc/cpuinfo calls the processor."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
