"""A client: numpy arrays in, numpy arrays out.

    with Client("http://127.0.0.1:8000") as client:
        embeddings = client.embed([first, second])  # arrays [seq_len, embed_dim]

Answers 429 and 503 are retried as their Retry-After tells.
"""

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from model.sequences import Sequences
from model.tensors import save_tensors
from service.media import SAFETENSORS
from service.options import Overlong, Precision

RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)

SequencesLike = npt.NDArray[Any] | Iterable[npt.ArrayLike]


class RequestError(Exception):
    """The service refused.

    Attributes:
        status: the HTTP status.
        type: the error's word for programs.
        details: the error's further fields, such as `row` and `timestep`.
    """

    def __init__(self, status: int, error_type: str, message: str, details: dict[str, Any]) -> None:
        super().__init__(f"{status} {error_type}: {message}")
        self.status = status
        self.type = error_type
        self.details = details


class _Protocol:
    """What both clients do, without input or output."""

    def __init__(self, retry_seconds: float) -> None:
        self.retry_seconds = retry_seconds

    def request(
        self, sequences: SequencesLike, normalize: bool, overlong: Overlong, precision: Precision
    ) -> dict[str, Any]:
        """Arguments of the HTTP request that embeds `sequences`."""
        batch = Sequences.from_list(sequences)
        return {
            "content": save_tensors({"values": batch.values, "lengths": batch.lengths}),
            "headers": {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS},
            "params": {
                "normalize": str(normalize).lower(),
                "overlong": overlong,
                "precision": precision,
            },
        }

    def wait(self, response: httpx.Response, until: float) -> float | None:
        """Seconds to wait before trying again, or None if the response is to be taken as it is."""
        if response.status_code not in RETRIED:
            return None
        try:
            seconds = max(0.0, float(response.headers.get("retry-after", "1")))
        except ValueError:
            seconds = 1.0
        return seconds if time.monotonic() + seconds <= until else None

    def check(self, response: httpx.Response) -> httpx.Response:
        """The response, if it is a success.

        Raises:
            RequestError: it is not.
        """
        if response.is_success:
            return response
        try:
            error = dict(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            error = {}
        error_type = str(error.pop("type", "unknown"))
        message = str(error.pop("message", response.text[:200]))
        raise RequestError(response.status_code, error_type, message, error)

    def embeddings(self, response: httpx.Response) -> npt.NDArray[Any]:
        """The array in a successful response."""
        tensors: dict[str, npt.NDArray[Any]] = safetensors.numpy.load(response.content)
        rows = tensors["embeddings"]
        if "scales" not in tensors:
            return rows
        numbers: npt.NDArray[Any] = rows.astype(np.float32) * tensors["scales"][:, None]
        return numbers


class Client:
    """A blocking client.

    Args:
        base_url: of the service.
        retry_seconds: how long to go on trying when the service is full or not ready.
        **options: of `httpx.Client`: `headers`, `timeout`, `transport`, ...
    """

    def __init__(self, base_url: str, *, retry_seconds: float = 30.0, **options: Any) -> None:
        self._http = httpx.Client(base_url=base_url, **({"timeout": 60.0} | options))
        self._protocol = _Protocol(retry_seconds)

    def embed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
    ) -> npt.NDArray[Any]:
        """Embeds sequences.

        Args:
            sequences: arrays `[seq_len, embed_dim]`, of any lengths, or one array
                `[batch, seq_len, embed_dim]`.
            normalize: whether to scale embeddings to unit length.
            overlong: what to do with sequences longer than the model takes.
            precision: of the numbers on the wire. `int8` comes back as float32, its scales
                applied; `binary` as bits, uint8 `[batch, hidden_size / 8]`.

        Returns:
            `[batch, hidden_size]`, float32 or float16 as asked.

        Raises:
            RequestError: the service refused.
            SequenceError: `sequences` are not of this form.
            httpx.TransportError: the service could not be reached.
        """
        request = self._protocol.request(sequences, normalize, overlong, precision)
        until = time.monotonic() + self._protocol.retry_seconds
        while True:
            response = self._http.post("/embed", **request)
            seconds = self._protocol.wait(response, until)
            if seconds is None:
                return self._protocol.embeddings(self._protocol.check(response))
            time.sleep(seconds)

    def info(self) -> dict[str, Any]:
        """What `GET /info` tells."""
        content: dict[str, Any] = self._protocol.check(self._http.get("/info")).json()
        return content

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio; see `Client`."""

    def __init__(self, base_url: str, *, retry_seconds: float = 30.0, **options: Any) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, **({"timeout": 60.0} | options))
        self._protocol = _Protocol(retry_seconds)

    async def embed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
    ) -> npt.NDArray[Any]:
        """See `Client.embed`."""
        request = self._protocol.request(sequences, normalize, overlong, precision)
        until = time.monotonic() + self._protocol.retry_seconds
        while True:
            response = await self._http.post("/embed", **request)
            seconds = self._protocol.wait(response, until)
            if seconds is None:
                return self._protocol.embeddings(self._protocol.check(response))
            await asyncio.sleep(seconds)

    async def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        response = await self._http.get("/info")
        content: dict[str, Any] = self._protocol.check(response).json()
        return content

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
