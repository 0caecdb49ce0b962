"""Pre-trains a universal encoder from a recipe, on synthetic series alone.

One seed on one version of torch and numpy, one number of threads and one kind of processor gives
one model. Killed at any point and taken up again, it ends with the same one.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tritserve.model import channels
from tritserve.model.network.bitnet import BitNet
from tritserve.model.network.join import average_windows
from tritserve.model.pretraining.learner import PretrainLearner, normalize, set_rate
from tritserve.model.pretraining.pool import Pool, fill_pool
from tritserve.model.pretraining.recipe import PretrainRecipe
from tritserve.model.pretraining.views import change
from tritserve.model.training.checkpoint import Checkpoint
from tritserve.model.training.learner import make_optimizer
from tritserve.model.training.log import Step
from tritserve.model.training.loop import (
    MEASURE_EVERY,
    Run,
    descend,
    prepare_torch,
    take_steps,
    versions,
)
from tritserve.model.training.memory import memory_needed
from tritserve.model.training.monitor import Monitor
from tritserve.model.training.run_folder import POOL, clear_run
from tritserve.model.training.state import identify, load_state

# Series whose rows tell mean and deviation of all, and how many of them are embedded at once.
MEASURED_SERIES = 8192
AT_ONCE = 512


class _Pretraining(Run):
    """A run of pre-training: everything that changes from step to step, and how."""

    learner: PretrainLearner

    def __init__(self, recipe: PretrainRecipe, pool: Pool) -> None:
        prepare_torch(recipe.seed, recipe.threads)
        self.recipe = recipe
        self.steps = recipe.schedule.steps
        self.pool = torch.from_numpy(pool)
        self.learner = PretrainLearner(recipe.model, recipe.objective)
        schedule = recipe.schedule
        self.optimizer = make_optimizer(self.learner, schedule.learning_rate, schedule.weight_decay)
        self.monitor = Monitor(self.learner.encoder)
        self.step = 0

    def advance(self) -> Step:
        """Takes one step."""
        self.learner.train()
        schedule = self.recipe.schedule
        rate = set_rate(self.optimizer, schedule, self.step)
        windows = self._views()
        losses = self.learner.losses(windows)
        loss = torch.stack(list(losses.values())).sum()
        self.step += 1
        descend(
            self.learner,
            self.optimizer,
            loss,
            schedule.max_gradient_norm,
            step=self.step,
            steps=self.steps,
        )
        measured = self.step % MEASURE_EVERY == 0
        layers = self.monitor.measure(self.step, self.learner, windows) if measured else {}
        told = {name: value.item() for name, value in losses.items()}
        return Step(self.step, self.steps, loss.item(), rate, layers, losses=told)

    def _views(self) -> Tensor:
        """Two views of each of some series, normalised: `[2 * batch, points]`."""
        recipe, shape = self.recipe, self.recipe.model.channels
        assert shape
        chance = torch.default_generator
        taken = torch.randint(len(self.pool), (recipe.schedule.batch_size,), generator=chance)
        series = self.pool[taken].float().repeat(2, 1)
        return normalize(change(series, shape.points, recipe.views, chance), recipe.views.floor)


@memory_needed("the pool of series")
def draw(
    recipe: PretrainRecipe,
    folder: Path | str,
    progress: Callable[[int], object] = lambda _: None,
    *,
    resume: bool = True,
) -> Pool:
    """Draws the series to train on, those that are not there yet.

    Args:
        recipe: which series.
        folder: of the run, where they are kept.
        progress: called with the number of series that are there, whenever there are more.
        resume: whether to go on with the run that is in the folder, if there is one; else it is
            deleted.

    Returns:
        `[series, points]` float16.

    Raises:
        OutOfMemoryError: the series do not fit into memory.
        OSError: the folder cannot be written.
        PoolError: a process that draws series ended.
        StateError: the folder holds other series, or damaged ones.
    """
    if not resume:
        clear_run(folder)
    return fill_pool(folder, recipe.seed, recipe.prior, progress)


@memory_needed("the model or its batch")
def pretrain(
    recipe: PretrainRecipe,
    pool: Pool,
    folder: Path | str,
    progress: Callable[[Step], None] = lambda _: None,
) -> Checkpoint:
    """Trains as the recipe says; a run that is in the folder is gone on with.

    Args:
        recipe: what to train, and how.
        pool: what `draw` gave.
        folder: where to keep the state and the log.
        progress: called after every step.

    Raises:
        OutOfMemoryError: the model or its batch does not fit into memory.
        OSError: the folder cannot be written.
        StateError: the folder holds a damaged state, or one of another recipe or version.
        TrainingError: the loss or its gradient is no longer finite.
    """
    identity = identify(recipe)
    run = _Pretraining(recipe, pool)
    if state := load_state(folder, identity):
        run.restore(state)
    else:
        clear_run(folder, keep=POOL)
    take_steps(run, progress, folder, identity)
    encoder = run.learner.encoder.eval()
    measure_rows(encoder, pool[:MEASURED_SERIES])
    return Checkpoint(
        model=encoder,
        heads=run.learner.heads.state_dict(),
        name=recipe.name,
        training={
            "recipe": recipe.model_dump(mode="json"),
            "data": "synthetic series alone; no real series was seen",
            "versions": versions(),
        },
    )


@torch.inference_mode()
def measure_rows(encoder: BitNet, series: Pool) -> None:
    """Sets mean and deviation of pooled rows, by which they are standardised before joining.

    Args:
        encoder: sees channels one by one.
        series: `[series, points]` float16, each of one channel.
    """
    assert encoder.config.channels
    assert encoder.join
    rows = []
    for begin in range(0, len(series), AT_ONCE):
        part = series[begin : begin + AT_ONCE].astype(np.float32)
        lengths = np.full(len(part), part.shape[1])
        seen = channels.read(part.reshape(-1, 1), lengths, encoder.config.channels)
        pooled = encoder.embed_windows(torch.from_numpy(seen.tokens))
        rows.append(average_windows(pooled, seen.windows).double())
    deviation, mean = torch.std_mean(torch.cat(rows), dim=0, correction=0)
    # What is constant is so in any series.
    encoder.join.mean.copy_(mean)
    encoder.join.std.copy_(torch.where(deviation > 1e-6, deviation, 1.0))
