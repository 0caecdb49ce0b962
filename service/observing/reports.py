"""What the queue reports, for metrics to count."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchReport:
    """One call of the engine: its sequences, timesteps and seconds."""

    sequences: int
    timesteps: int
    seconds: float
