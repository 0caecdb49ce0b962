"""The engine in C++; `tritserve.model.engine.engine` is the way to use it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

def supported() -> list[str]:
    """Names of the instruction sets that this machine can run, best first."""

class Encoder:
    """A BitNet encoder from a packed file's tensors.

    Raises:
        ValueError: a tensor is missing or does not fit, `isa` is not supported here, or `threads`
            is out of range.
    """

    def __init__(
        self, settings: Mapping[str, Any], arrays: Mapping[str, Any], isa: str, threads: int
    ) -> None: ...
    def embed(
        self,
        values: npt.NDArray[np.float32],
        lengths: npt.NDArray[np.int64],
        apart: bool,
        out: npt.NDArray[np.float32],
    ) -> None:
        """Fills `out [batch, output_size]` with the embeddings of a ragged batch.

        Raises:
            TypeError: an array has another type, number of dimensions or memory layout.
            ValueError: shapes or lengths do not fit.
        """

    def stream(self, restarts: bool) -> Stream:
        """A new stream.

        Raises:
            ValueError: the model cannot stream.
        """

    def push(
        self,
        streams: list[Stream],
        frames: npt.NDArray[np.float32],
        lengths: npt.NDArray[np.int64],
        every: bool,
        out: npt.NDArray[np.float32],
    ) -> tuple[str, int, int, int] | None:
        """Gives each stream its frames `[timesteps, embed_dim]` and fills `out`.

        Returns:
            None, or why nothing was done: the reason, and the portion, timestep and feature that
            it is about.

        Raises:
            TypeError: an argument has another type, number of dimensions or memory layout.
            ValueError: shapes or lengths do not fit.
        """

    def save(
        self, stream: Stream
    ) -> (
        tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]] | None
    ):
        """Timesteps, state, and flat `[rows, layers, heads, head_dim]` keys and values.

        None of a stream that is closed.
        """

    def restore(
        self,
        restarts: bool,
        timesteps: int,
        state: npt.NDArray[np.float32],
        keys: npt.NDArray[np.float32],
        values: npt.NDArray[np.float32],
    ) -> Stream:
        """A stream of what `save` gave.

        Raises:
            ValueError: the sizes do not fit each other and the model.
        """

    def close(self, stream: Stream) -> None: ...
    @property
    def stream_bytes(self) -> int: ...
    @property
    def max_stream_bytes(self) -> int: ...

    alone_work: float
    """Batches of fewer multiplications are computed by one thread; the answer is the same."""

    @property
    def kernels(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def panel_bytes(self) -> int: ...
    @property
    def weights(self) -> int: ...

class Stream:
    """A live stream of an encoder."""

    @property
    def timesteps(self) -> int: ...
    @property
    def closed(self) -> bool: ...

def turn(
    theta: float,
    half: int,
    position: int,
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
) -> None:
    """Fills `cos` and `sin [half]` with what rotary position embedding turns a position by."""

class PackedMatrix:
    """One packed matrix `[outputs, inputs]`, to test and time kernels with."""

    def __init__(
        self, packed: npt.NDArray[np.uint8], outputs: int, inputs: int, binary: bool, isa: str
    ) -> None: ...
    def matmul(self, q: npt.NDArray[np.int8], out: npt.NDArray[np.int32]) -> None:
        """Fills `out [rows, outputs rounded up to 16]` with `q [rows, inputs] @ weights^T`."""

    @property
    def kernels(self) -> str: ...
