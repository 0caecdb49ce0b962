"""What a process does that draws series: apart from the pool, so that it loads no torch."""

import io
import os
import signal
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

import numpy as np

from tritserve.model.pretraining.prior import draw_block
from tritserve.model.pretraining.recipe import Prior
from tritserve.model.replace import replace_file


def write_block(path: Path | str, seed: int, index: int, count: int, prior: Prior) -> None:
    """Draws a block and writes the first `count` of its series, float16 as npy."""
    data = io.BytesIO()
    np.save(data, draw_block(seed, index, prior)[:count].astype(np.float16))
    replace_file(path, data.getvalue())


def leave_to_parent() -> None:
    """Leaves it to the process that waits for the work of this one when to end.

    An interrupt reaches both, and is its to answer; and when it ends, however that is, so does
    this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=end, daemon=True).start()
