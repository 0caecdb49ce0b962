"""Views: random changes to series, after which each should still be known.

A view is a stretch of the series, its time warped, sampled at a random number of timesteps and
drawn between them as a series that short is; then it drifts and is noisy.
"""

import math

import torch
from torch import Tensor

from tritserve.model.pretraining.recipe import Views

# Of the logarithms of numbers of timesteps, beyond that of the points of a window: so many views
# are sampled as finely as they are drawn.
_FINEST = math.log(1.25)


def change(series: Tensor, points: int, how: Views, chance: torch.Generator) -> Tensor:
    """Makes a view of each series.

    Args:
        series: `[batch, length]` float32.
        points: of a view.
        how: strength of each change.
        chance: the only source of chance.

    Returns:
        `[batch, points]` float32, not normalised.
    """

    def uniform() -> Tensor:
        return torch.rand(len(series), 1, generator=chance)

    share = 1 - how.crop * uniform()
    start = (1 - share) * uniform()
    # A whole wave or two, which move the ends of a view least.
    waves, phase = 1 + torch.floor(2 * uniform()), uniform()
    strength = how.warp * (2 * uniform() - 1) / waves
    fewest, most = math.log(min(how.fewest, points)), math.log(points) + _FINEST
    timesteps = torch.exp(fewest + (most - fewest) * uniform()).floor().clamp(max=points)

    def sampled(timestep: Tensor) -> Tensor:
        time = timestep / (timesteps - 1)
        turns = 2 * torch.pi * (waves * time + phase)
        warped = time + strength * (torch.sin(turns) - torch.sin(2 * torch.pi * phase))
        at = start + share * warped.clamp(0, 1)
        return interpolate(series, at * (series.shape[1] - 1))

    drawn = torch.linspace(0, 1, points) * (timesteps - 1)
    before = torch.minimum(drawn.floor(), timesteps - 2)
    view = torch.lerp(sampled(before), sampled(before + 1), drawn - before)

    deviation = view.std(dim=1, keepdim=True)
    drifting = uniform() < 0.5
    drift = how.drift * (2 * uniform() - 1) * drifting * torch.linspace(-1, 1, points)
    noise = how.noise * uniform() ** 2 * torch.randn(view.shape, generator=chance)
    return view + deviation * (drift + noise)


def interpolate(series: Tensor, at: Tensor) -> Tensor:
    """Series `[batch, length]` at places `[batch, points]` from 0 to length - 1, linearly."""
    before = at.long().clamp(0, series.shape[1] - 2)
    return torch.lerp(series.gather(1, before), series.gather(1, before + 1), at - before)
