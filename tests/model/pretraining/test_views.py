"""Views of series: what may change and what may not."""

import numpy as np
import pytest
import torch

from tritserve.model.pretraining.learner import normalize
from tritserve.model.pretraining.recipe import Views
from tritserve.model.pretraining.views import change, interpolate

NONE = Views(crop=0.0, warp=0.0, fewest=4096, drift=0.0, noise=0.0)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def rises(batch=200, length=101):
    return torch.linspace(0, 1, length).repeat(batch, 1)


def test_without_any_change_a_view_is_the_series():
    series = torch.randn(5, 64, generator=chance())
    torch.testing.assert_close(change(series, 64, NONE, chance()), series, rtol=0, atol=1e-4)


def test_one_seed_makes_one_view_and_the_next_another():
    series, generator = torch.randn(5, 64, generator=chance()), chance(1)
    first, second = (change(series, 32, Views(), generator) for _ in range(2))
    assert torch.equal(first, change(series, 32, Views(), chance(1)))
    assert not torch.isclose(first, second).all(dim=1).any()


def test_a_crop_is_a_stretch_of_at_least_its_share():
    views = change(rises(), 33, NONE.model_copy(update={"crop": 0.4}), chance())
    begin, end = views[:, 0], views[:, -1]
    assert begin.min() >= 0
    assert end.max() <= 1
    share = end - begin
    assert 0.6 - 1e-5 <= share.min() < 0.65
    assert 0.95 < share.max() <= 1


def test_time_is_warped_and_never_runs_backwards():
    # The most that a recipe may ask for.
    views = change(rises(), 101, NONE.model_copy(update={"warp": 0.1499}), chance())
    assert views.diff(dim=1).min() >= 0
    assert (views - rises()).abs().max() > 0.1


def test_a_coarse_view_is_drawn_between_few_timesteps():
    series = torch.randn(200, 256, generator=chance())
    views = change(series, 128, NONE.model_copy(update={"fewest": 8}), chance())
    # Between timesteps a view is straight: what bends is a timestep.
    bends = (views.diff(dim=1).diff(dim=1).abs() > 1e-3).sum(dim=1)
    assert bends.min() < 20
    # At a finer one of them every point is a timestep.
    assert bends.max() > 110
    assert (
        (
            views
            - torch.nn.functional.interpolate(
                series[:, None], 128, mode="linear", align_corners=True
            )[:, 0]
        )
        .abs()
        .amax(dim=1)
        < 1e-3
    ).float().mean() > 0.03


def test_noise_and_drift_are_in_deviations_of_the_view():
    series = rises()
    for how in ({"noise": 0.15}, {"drift": 0.25}):
        small, large = (
            change(scale * series, 64, NONE.model_copy(update=how), chance()) for scale in (1, 1e3)
        )
        torch.testing.assert_close(1e3 * small, large, rtol=1e-4, atol=1e-2)
        assert not torch.allclose(small, change(series, 64, NONE, chance()), atol=1e-2)


def test_windows_are_normalised_as_a_model_normalises_them():
    windows = torch.cat([torch.randn(4, 50, generator=chance()), torch.full((1, 50), 3.0)])
    normal = normalize(windows, 1e-3)
    assert normal.dtype == torch.float32
    assert normal.is_contiguous()
    torch.testing.assert_close(normal.mean(dim=1), torch.zeros(5), rtol=0, atol=1e-5)
    deviation = windows[:4].numpy().std(axis=1)
    np.testing.assert_allclose(
        normal[:4].numpy().std(axis=1), deviation / (deviation + 1e-3), rtol=1e-4
    )
    assert not normal[4].any()


@pytest.mark.parametrize("at", [0.0, 0.25, 1.0, 2.0])
def test_interpolation_is_linear_up_to_both_ends(at):
    assert interpolate(torch.tensor([[0.0, 10.0, 30.0]]), torch.tensor([[at]])).item() == (
        np.interp(at, [0, 1, 2], [0, 10, 30])
    )
