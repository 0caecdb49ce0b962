"""Families of series that Gaussian processes hardly draw: movements, jumps, waves and decays.

Each draws `[points]` float64 of any level and scale, from a source of chance and `time [points]`,
evenly spaced from 0 to 1.
"""

from collections.abc import Callable

import numpy as np

from tritserve.model.pretraining.gaussian_process import Series, log_uniform

Family = Callable[[np.random.Generator, Series], Series]

# Steps of an AR(2) that are thrown away, until it has forgotten where it began.
SETTLING = 50
# Shares of a series' deviation, one of which is added as noise.
NOISE = (0.0, 0.0, 0.02, 0.1, 0.3)


def minimum_jerk(chance: np.random.Generator, time: Series) -> Series:
    """Moves of a hand between holds: of all moves the smoothest (Flash and Hogan 1985)."""
    edges = np.sort(chance.uniform(0, 1, 2 * chance.integers(1, 6)))
    position = np.zeros_like(time)
    for begin, end in edges.reshape(-1, 2):
        done = np.clip((time - begin) / max(end - begin, 1e-3), 0, 1)
        position += chance.normal() * done**3 * (10 - 15 * done + 6 * done**2)
    return position


def strokes(chance: np.random.Generator, time: Series) -> Series:
    """A few bells, as the speed of each stroke of a hand is one (Plamondon 1995)."""
    speed = np.zeros_like(time)
    for _ in range(chance.integers(1, 7)):
        center, width = chance.uniform(-0.1, 1.1), log_uniform(chance, 0.02, 0.4)
        speed += chance.normal() * np.exp(-0.5 * ((time - center) / width) ** 2)
    return speed


def oscillator(chance: np.random.Generator, time: Series) -> Series:
    """An autoregressive process of order 2: a resonance driven by noise (Yule 1927)."""
    damping, angle = chance.uniform(0.7, 0.999), log_uniform(chance, 0.02, 2.5)
    first, second = 2 * damping * np.cos(angle), -(damping**2)
    values = [0.0, 0.0]
    for shock in chance.standard_normal(len(time) + SETTLING):
        values.append(first * values[-1] + second * values[-2] + shock)
    return np.array(values[-len(time) :])


def random_walk(chance: np.random.Generator, time: Series) -> Series:
    """A sum of independent steps, of which most may be none."""
    moves = chance.random(len(time)) < chance.choice([1, 0.1, 0.02])
    moves[chance.integers(1, len(time))] = True
    return np.cumsum(chance.standard_normal(len(time)) * moves)


def steps(chance: np.random.Generator, time: Series) -> Series:
    """Levels that jump."""
    edges = np.sort(chance.uniform(time[1], time[-2], chance.integers(1, 10)))
    levels: Series = chance.standard_normal(len(edges) + 1)[np.searchsorted(edges, time)]
    return levels


def wave(chance: np.random.Generator, time: Series) -> Series:
    """A square, saw-tooth, rectified or pointed wave, its frequency rising or falling: a chirp."""
    frequency, rise = log_uniform(chance, 0.5, 25), chance.uniform(-0.5, 0.5)
    turns = frequency * time * (1 + rise * time) + chance.uniform(0, 1)
    sine = np.sin(2 * np.pi * turns)
    forms = [np.sign(sine), turns % 1, np.abs(sine), sine**3]
    return forms[chance.integers(len(forms))]


def burst(chance: np.random.Generator, time: Series) -> Series:
    """An oscillation that comes and goes: a Gabor atom (Gabor 1946)."""
    center, width = chance.uniform(0, 1), chance.uniform(0.03, 0.3)
    turns = log_uniform(chance, 2, 40) * time + chance.uniform(0, 1)
    swing: Series = np.exp(-0.5 * ((time - center) / width) ** 2) * np.sin(2 * np.pi * turns)
    return swing


def decays(chance: np.random.Generator, time: Series) -> Series:
    """Shocks, each forgotten exponentially."""
    values = np.zeros_like(time)
    for _ in range(chance.integers(1, 5)):
        since, constant = time - chance.uniform(0, 0.9), chance.uniform(0.02, 0.5)
        values += chance.normal() * (since > 0) * np.exp(-np.maximum(since, 0) / constant)
    return values


SIGNALS: dict[str, Family] = {
    family.__name__: family
    for family in (minimum_jerk, strokes, oscillator, random_walk, steps, wave, burst, decays)
}


def signal(chance: np.random.Generator, time: Series) -> Series:
    """A series of one of the families, with noise or without."""
    family = list(SIGNALS.values())[chance.integers(len(SIGNALS))]
    series = family(chance, time)
    noise = chance.choice(NOISE) * series.std()
    noisy: Series = series + noise * chance.standard_normal(len(time))
    return noisy
