"""What the service's responses say, for a client."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from tritserve.service.client.foreign import describe
from tritserve.service.client.parts import Limits


class RequestError(Exception):
    """The service refused.

    Attributes:
        status: the HTTP status.
        type: the error's word for programs; `unknown` where the answer is not the service's, but
            that of a proxy before it, or of something else altogether.
        message: what was wrong and what is right.
        details: the error's further fields, such as `row` and `timestep`.
    """

    def __init__(self, status: int, error_type: str, message: str, details: dict[str, Any]) -> None:
        # All of them, so that the error can be pickled.
        super().__init__(status, error_type, message, details)
        self.status = status
        self.type = error_type
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.status} {self.type}: {self.message}"

    def counted_from(self, first_row: int) -> "RequestError":
        """The same about a part of a batch, its rows counted in the whole batch."""
        row = self.details.get("row")
        if row is None:
            return RequestError(self.status, self.type, self.message, self.details)
        whole = first_row + row
        message = self.message.replace(f"sequence {row}", f"sequence {whole}", 1)
        return RequestError(self.status, self.type, message, self.details | {"row": whole})


@dataclass(frozen=True)
class Model:
    """The model that computed embeddings.

    Attributes:
        name: of the model.
        revision: sha256 of its packed file.
        output_size: numbers in an embedding.
        channels: `joined`, or `apart` as they were asked for.
        quantize: `ternary` or `binary`.
        bits_per_weight: stored bits of the packed weights over their number.
    """

    name: str
    revision: str
    output_size: int
    channels: str
    quantize: str
    bits_per_weight: float


@dataclass(frozen=True)
class Timing:
    """Milliseconds in the service; of a batch in parts, their sum."""

    queue: float
    compute: float
    total: float


@dataclass(frozen=True, eq=False)
class Answer:
    """Embeddings, and what the service tells beside them.

    Attributes:
        embeddings: `[batch, output_size]` float32 or float16, or for `precision="binary"` uint8
            `[batch, output_size / 8]`.
        truncated: the rows that `overlong` shortened.
        model: that computed all of them.
        timing_ms: how long it took.
    """

    embeddings: npt.NDArray[Any]
    truncated: list[int]
    model: Model
    timing_ms: Timing


def check(response: httpx.Response) -> httpx.Response:
    """The response, if it is a success.

    Raises:
        RequestError: it is not.
    """
    if response.is_success:
        return response
    try:
        error = dict(response.json()["error"])
        error_type, message = str(error.pop("type")), str(error.pop("message"))
    except (ValueError, KeyError, TypeError):
        raise _foreign(response) from None
    raise RequestError(response.status_code, error_type, message, error)


def read(response: httpx.Response) -> Answer:
    """The answer in a successful response.

    Raises:
        RequestError: it is not one of the service's.
    """
    content = response.content
    try:
        tensors: dict[str, npt.NDArray[Any]] = safetensors.numpy.load(content)
        rows = tensors["embeddings"]
        # The library reads metadata from files only.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        told = {name: json.loads(text) for name, text in header["__metadata__"].items()}
        if "scales" in tensors:
            rows = rows.astype(np.float32) * tensors["scales"][:, None]
        return Answer(
            embeddings=rows,
            truncated=told["usage"]["truncated"],
            model=_pick(Model, told["model"]),
            timing_ms=_pick(Timing, told["timing_ms"]),
        )
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise _foreign(response, "it holds no embeddings") from error


def read_info(response: httpx.Response) -> dict[str, Any]:
    """What a successful response to `GET /info` tells.

    Raises:
        RequestError: it is not one of the service's.
    """
    try:
        content = dict(response.json())
        Limits().told_by(content)
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(response, "it tells no limits") from error
    return content


def join(answers: Sequence[tuple[int, Answer]], cut: Iterable[int]) -> Answer:
    """One answer from those of a batch's parts, which the same model has given.

    Args:
        answers: each with its first row.
        cut: rows that were shortened before they were sent.
    """
    timings = [answer.timing_ms for _, answer in answers]
    told = {first + row for first, answer in answers for row in answer.truncated}
    return Answer(
        embeddings=np.concatenate([answer.embeddings for _, answer in answers]),
        truncated=sorted(told.union(cut)),
        model=answers[0][1].model,
        timing_ms=Timing(
            queue=sum(timing.queue for timing in timings),
            compute=sum(timing.compute for timing in timings),
            total=sum(timing.total for timing in timings),
        ),
    )


def _foreign(response: httpx.Response, lack: str | None = None) -> RequestError:
    return RequestError(response.status_code, "unknown", describe(response, lack), {})


def _pick(kind: type[Any], told: dict[str, Any]) -> Any:
    """Leaves out what a newer service tells beside."""
    return kind(**{field.name: told[field.name] for field in fields(kind)})
