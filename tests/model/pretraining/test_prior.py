"""The synthetic series: what each family draws, and that it is always the same."""

import numpy as np
import pytest

from tritserve.model.pretraining.gaussian_process import gaussian_process
from tritserve.model.pretraining.graph import normalized, related
from tritserve.model.pretraining.prior import BLOCK, draw_block
from tritserve.model.pretraining.recipe import Graph, Prior
from tritserve.model.pretraining.signals import SIGNALS, minimum_jerk

FAMILIES = SIGNALS | {"gaussian_process": gaussian_process}
SMALL = Prior(series=1, points=32)
TIME = np.linspace(0, 1, 64)


@pytest.fixture(scope="module")
def block():
    return draw_block(0, 0, SMALL)


def test_a_block_is_of_series_of_mean_0_and_deviation_1(block):
    assert block.shape == (BLOCK, 32)
    assert block.dtype == np.float32
    assert np.isfinite(block).all()
    np.testing.assert_allclose(block.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(block.std(axis=1), 1, atol=1e-5)


def test_a_block_depends_on_its_number_and_seed_alone(block):
    assert np.array_equal(block, draw_block(0, 0, SMALL))
    for seed, index in [(0, 1), (1, 0)]:
        assert not np.isclose(block, draw_block(seed, index, SMALL)).all(axis=1).any()


def test_hardly_two_series_of_a_block_are_alike(block):
    alike = np.abs(block @ block.T / block.shape[1])
    np.fill_diagonal(alike, 0)
    assert (alike.max(axis=1) > 0.999).mean() < 0.15


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_series_that_vary_and_differ(name):
    chance = np.random.default_rng(0)
    drawn = [FAMILIES[name](chance, TIME) for _ in range(50)]
    assert all(series.shape == TIME.shape and np.isfinite(series).all() for series in drawn)
    units = [unit for series in drawn if (unit := normalized(series)) is not None]
    assert len(units) >= 48
    alike = np.corrcoef(np.stack(units))
    assert np.median(np.abs(alike[np.triu_indices(len(units), 1)])) < 0.8


@pytest.mark.parametrize("points", [8, 4096])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_may_have_any_number_of_points(name, points):
    assert SIGNALS[name](np.random.default_rng(0), np.linspace(0, 1, points)).shape == (points,)


def test_a_minimum_jerk_move_peaks_half_way_at_15_eighths_of_its_mean_speed():
    class OneMove:
        """Stands in for chance: from 0.2 to 0.7, by 3."""

        integers = staticmethod(lambda *_: 1)
        uniform = staticmethod(lambda *_: np.array([0.7, 0.2]))
        normal = staticmethod(lambda: 3.0)

    time = np.linspace(0, 1, 1001)
    position = minimum_jerk(OneMove(), time)
    speed = np.gradient(position, time)
    assert position[:201].max() == 0
    assert position[700:] == pytest.approx(3)
    assert time[speed.argmax()] == pytest.approx(0.45)
    assert speed.max() == pytest.approx(15 / 8 * 3 / 0.5, rel=1e-4)


def test_nodes_of_one_graph_are_related():
    def likeness(draw):
        """Of the greatest correlation that a series has with another, the mean."""
        chance = np.random.default_rng(0)
        found = []
        for _ in range(60):
            alike = np.abs(np.corrcoef(np.stack(draw(chance))))
            np.fill_diagonal(alike, 0)
            found.append(alike.max(axis=1).mean())
        return np.mean(found)

    time = TIME[::2]
    graph = likeness(lambda chance: related(chance, time, Graph()))
    roots = likeness(lambda chance: related(chance, time, Graph(parents=0)))
    assert graph > roots + 0.1


def test_a_constant_is_not_made_a_series():
    assert normalized(np.full(50, 0.1)) is None
    assert normalized(np.full(50, 0.1) + 1e-12 * np.arange(50)) is None
    assert normalized(1e-30 * np.arange(50)) is not None
