"""Progress, as a terminal or a log shows it."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, unit: str) -> "tqdm[Any]":
    """A progress bar, redrawn seldom where nobody watches a terminal."""
    return tqdm(total=total, unit=unit, mininterval=0.1 if sys.stderr.isatty() else 10)
