"""What a process has to compute with: processors, and variables that the engine reads."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ISA_VARIABLE = "TRITSERVE_ISA"
MAX_THREADS = 1_024
# Quota and period in microseconds, as control groups of version 2 and of version 1 have them.
_QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def available_processors(root: Path | str = Path("/")) -> int:
    """Processors that this process may use: its affinity, within its control groups' quotas.

    Quotas are shared with whatever else is in the group, and hold for the groups within it: the
    least from the process's own group up to the topmost that can be seen counts.

    Args:
        root: of the file system that holds /proc and the control groups.
    """
    quotas = map(_quota, _control_groups(Path(root)))
    return max(1, math.floor(min([len(os.sched_getaffinity(0)), *quotas])))


def _quota(group: Path) -> float:
    for names in _QUOTA_FILES:
        # There is none, or no limit: "max", or -1.
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((group / name).read_text() for name in names).split()
            processors = int(quota) / int(period)
            if processors > 0:
                return processors
    return math.inf


def _unescape(field: str) -> str:
    r"""A field of mountinfo, in which the kernel writes spaces and backslashes as `\ooo`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, from its own to the topmost."""
    try:
        memberships, mounts = (
            (root / "proc/self" / name).read_text(errors="surrogateescape").splitlines()
            for name in ("cgroup", "mountinfo")
        )
    except OSError:
        return
    # By controller, which of version 2 has no name here.
    own: dict[str, str] = {}
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    for line in mounts:
        mount, _, kind = line.partition(" - ")
        file_system, _, options = kind.split(" ", 2)
        if file_system == "cgroup2" and "" in own:
            path = own[""]
        elif file_system == "cgroup" and "cpu" in options.split(",") and "cpu" in own:
            path = own["cpu"]
        else:
            continue
        shown, at = map(_unescape, mount.split(" ")[3:5])
        folder = root / at.lstrip("/")
        below = PurePosixPath(path)
        # A container may be shown its own group, or one beside it, as the topmost.
        within = below.is_relative_to(shown) and ".." not in below.parts
        for level in [below, *below.parents] if within else []:
            if level.is_relative_to(shown) and level != PurePosixPath(shown):
                yield folder / level.relative_to(shown)
        yield folder
