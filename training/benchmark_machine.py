"""What figures are measured on, for all benchmarks."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from crkd_core.cli import UserError


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


def process_memory(file: str, field: str, pid: int | str = "self") -> float:
    """A figure of /proc/<pid>/<file>, MB."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    if found is None:
        raise UserError(f"/proc/{pid}/{file} has no {field}; memory is measured on Linux only")
    return int(found[1]) * 1024 / 1e6
