"""A batch as it is sent: cut as the model allows, and in parts as the limits do."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.packed.tensors import save_tensors
from tritserve.model.sequences import check_finite, check_no_infinity
from tritserve.service.client.batch import Batch
from tritserve.service.forms.choices import Overlong, truncate
from tritserve.service.forms.cost import TIMESTEPS, Cost

# So that a part finds room in the queue, and leaves some to others.
PARTS_IN_QUEUE = 4

# More than the header that safetensors writes, but for the features' names.
HEADER_BYTES = 256


@dataclass(frozen=True)
class Limits:
    """What one request may be, as far as it is known.

    Attributes:
        revision: of the model that takes `max_timesteps`; None before the service was asked.
        max_timesteps: of a sequence.
        max_sequences: of a request.
        request_timesteps: of all sequences of a request, as `cost` counts them.
        cost: what sequences count.
        body_bytes: of a request.
        proxy_bytes: of a request, as found by what a proxy refused.
        names_known: whether the model knows the names of its features.
    """

    revision: str | None = None
    max_timesteps: int = sys.maxsize
    max_sequences: int = sys.maxsize
    request_timesteps: int = sys.maxsize
    cost: Cost = TIMESTEPS
    body_bytes: int = sys.maxsize
    proxy_bytes: int = sys.maxsize
    names_known: bool = False

    def told_by(self, info: dict[str, Any]) -> "Limits":
        """With those of `GET /info`."""
        limits = info["limits"]
        return replace(
            self,
            revision=info["revision"],
            max_timesteps=limits["max_timesteps"],
            max_sequences=limits["max_sequences"],
            request_timesteps=min(
                limits["max_request_timesteps"], limits["queue_timesteps"] // PARTS_IN_QUEUE
            ),
            cost=Cost(limits["window"], limits["window_cost"]) if "window" in limits else TIMESTEPS,
            body_bytes=limits["max_body_bytes"],
            names_known="names" in info.get("features", ()),
        )


class Load:
    """A batch as it is sent under given limits.

    Args:
        batch: whole.
        overlong: what to do with sequences longer than the model takes. Where its limit is known,
            what the model would not see is not sent.
        limits: of a request.

    Attributes:
        truncated: the rows that were cut here.
        features: the names that are sent; None where none are.
        revision: of the one model that may answer; None where any may.

    Raises:
        SequenceError: a sequence is to be cut, and some value of the batch is not finite, nor one
            that the model takes as missing: after the cut the service could not see it.
    """

    def __init__(self, batch: Batch, overlong: Overlong, limits: Limits) -> None:
        whole = batch.sequences
        self._sequences, self.truncated = whole, list[int]()
        if overlong != "error":
            self._sequences, self.truncated = truncate(whole, overlong, limits.max_timesteps)
        if self.truncated:
            takes_missing = limits.cost.window is not None
            check = check_no_infinity if takes_missing else check_finite
            check(whole.values, whole.lengths)
        left_out = batch.of_tables and not limits.names_known
        self.features = None if left_out else batch.features
        # Another model may take more timesteps, or know the names.
        self.revision = limits.revision if self.truncated or left_out else None
        self._metadata = {} if self.features is None else {"features": _as_csv(self.features)}
        self._header = HEADER_BYTES + len(json.dumps(self._metadata, ensure_ascii=False).encode())
        self._limits = limits
        self._timesteps = self._sequences.offsets
        self._costs = limits.cost.offsets(self._sequences)
        width = whole.values.itemsize * whole.values.shape[1]
        item = whole.lengths.itemsize
        self._bytes = width * self._timesteps + item * np.arange(len(whole) + 1)

    def part(self, first: int) -> range:
        """The rows from `first` on that go into one request, one at least."""
        limits, size = self._limits, self._bytes
        room = min(limits.body_bytes, limits.proxy_bytes) - self._header
        fitting = min(
            first + limits.max_sequences,
            _last_within(self._costs, first, limits.request_timesteps),
            _last_within(size, first, room),
        )
        return range(first, max(first + 1, fitting))

    def body(self, rows: range) -> bytes:
        """A part as safetensors."""
        first, last = self._timesteps[[rows.start, rows.stop]]
        tensors: dict[str, npt.NDArray[Any]] = {
            "values": self._sequences.values[first:last],
            "lengths": self._sequences.lengths[rows.start : rows.stop],
        }
        return save_tensors(tensors, self._metadata)

    def size(self, rows: range) -> int:
        """Bytes of a request with these rows, about."""
        return int(self._bytes[rows.stop] - self._bytes[rows.start]) + self._header


def _last_within(offsets: Any, first: int, most: int) -> int:
    """The last row, exclusive, to which no more than `most` lies from row `first` on."""
    until = min(int(offsets[first]) + most, int(offsets[-1]))
    return int(np.searchsorted(offsets, until, "right")) - 1


def _as_csv(names: Sequence[str]) -> str:
    """A row of CSV: a name that holds a comma stands in double quotes."""
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(names)
    return row.getvalue()
