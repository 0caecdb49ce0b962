"""What sequences cost: the unit in which requests are limited, admitted and put into batches.

It is the timestep, the row that an encoder computes. A model that sees channels one by one computes
as many rows of each window of each channel, however short it is; of a series of several windows,
the whole is one more. So that a thousand channels cost a thousand times as much as one.
"""

from dataclasses import dataclass

from tritserve.model.sequences import LengthArray, Sequences, running_total


@dataclass(frozen=True)
class Cost:
    """How a model counts.

    Attributes:
        window: timesteps of the longest window, where channels are seen one by one.
        window_cost: of each window of each channel, in timesteps.
    """

    window: int | None = None
    window_cost: int = 1

    def of(self, sequences: Sequences) -> LengthArray:
        """`[batch]` int64, the timesteps that each sequence counts."""
        return self.of_lengths(sequences.lengths, sequences.values.shape[1])

    def of_lengths(self, lengths: LengthArray, channels: int) -> LengthArray:
        """The same of sequences of `lengths [batch]` int64 and so many channels."""
        if self.window is None:
            return lengths
        windows: LengthArray = -(-lengths // self.window)
        windows += windows > 1
        windows *= self.window_cost * channels
        return windows

    def offsets(self, sequences: Sequences) -> LengthArray:
        """`[batch + 1]` int64, what the sequences before each count."""
        return running_total(self.of(sequences))


TIMESTEPS = Cost()
"""That of a model that joins its features."""
