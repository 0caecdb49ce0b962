"""`tritserve bench`."""

import json
import time
from pathlib import Path

import click
import numpy as np

from tritserve.model.config import MAX_WIDTH
from tritserve.model.engine.engine import Engine
from tritserve.model.errors import UserError
from tritserve.model.packed.content import PackedModel
from tritserve.model.sequences import FloatArray, check_longest
from tritserve.service.commands.arguments import Seconds, model_option, threads_option

BENCH_TIMESTEPS = 60
BENCH_CHANNELS = 6


@click.command()
@model_option
@click.option(
    "--batch",
    default=32,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Sequences embedded at once.",
)
@click.option(
    "--timesteps",
    type=click.IntRange(1),
    help=f"Of each sequence; {BENCH_TIMESTEPS}, or the model's maximum, if not given.",
)
@click.option(
    "--channels",
    type=click.IntRange(1, MAX_WIDTH),
    help=f"Of each sequence, of a model that sees them one by one; {BENCH_CHANNELS} if not given.",
)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=Seconds(0.1, 3600),
    help="How long to measure.",
)
@threads_option
def bench(
    model: Path,
    batch: int,
    timesteps: int | None,
    channels: int | None,
    seconds: float,
    threads: int | None,
) -> None:
    """Times the engine on this machine; prints one JSON line.

    The sequences are noise, with the mean and the deviation of the model's training data where its
    features are its own.
    """
    engine = Engine.load(model, threads=threads)
    config = engine.model.config
    length = timesteps or min(BENCH_TIMESTEPS, config.max_timesteps)
    check_longest(np.array([length]), config.max_timesteps)
    values = _noise(engine.model, batch * length, channels)
    lengths = np.full(batch, length)
    engine.embed(values, lengths)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        engine.embed(values, lengths)
        times.append(time.perf_counter() - start)
    median = float(np.median(times))
    result = {
        "model": engine.model.name,
        "kernel": engine.kernel,
        "threads": engine.threads,
        "batch": batch,
        "timesteps": length,
        "channels" if config.channels else "features": values.shape[1],
        "median_ms": round(1e3 * median, 4),
        "sequences_per_second": round(batch / median, 1),
        "timesteps_per_second": round(batch * length / median, 1),
        "runs": len(times),
    }
    click.echo(json.dumps(result))


def _noise(model: PackedModel, timesteps: int, channels: int | None) -> FloatArray:
    """`[timesteps, embed_dim]` float32."""
    config = model.config
    if config.embed_dim and channels:
        raise UserError(f"{model.name} takes {config.embed_dim} features; leave --channels out")
    width = config.embed_dim or channels or BENCH_CHANNELS
    noise = np.random.default_rng(0).standard_normal((timesteps, width), np.float32)
    if config.embed_dim:
        # After the features come their differences over time.
        noise *= model.tensors["standardize.std"][:width]
        noise += model.tensors["standardize.mean"][:width]
    return noise
