"""What several of the `tritserve` commands take."""

import math
from pathlib import Path
from typing import Any

import click

from tritserve.model.environment import MAX_THREADS
from tritserve.model.pretrained import DEFAULT_MODEL

file_argument = click.Path(path_type=Path, exists=True, dir_okay=False)
model_option = click.option(
    "--model",
    type=file_argument,
    default=DEFAULT_MODEL,
    envvar="TRITSERVE_MODEL",
    help="Packed model; the embedded one if not given.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    envvar="TRITSERVE_THREADS",
    help="Threads of the engine; one for each processor if not given.",
)


class Seconds(click.FloatRange):
    """Of a time; NaN, which no comparison keeps out, is in no range either."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail("it must be a number.", param, ctx)
        return seconds
