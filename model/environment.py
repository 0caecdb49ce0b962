"""What a process has to compute with: processors, and variables that the engine reads."""

import os
from pathlib import Path

ISA_VARIABLE = "TRITSERVE_ISA"
MAX_THREADS = 1_024
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_processors() -> int:
    """Processors that this process may use: its affinity, within its control group's quota."""
    processors = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        if quota == "max":
            return processors
        return max(1, min(processors, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return processors
