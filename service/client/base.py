"""What both clients are, but for how they wait."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import httpx
import numpy.typing as npt

from tritserve.service.client.connections import Connections
from tritserve.service.client.exchange import Exchange, Exchanges, rows_of
from tritserve.service.forms.choices import Channels, Overlong, Precision

SequencesLike = npt.NDArray[Any] | Iterable[npt.ArrayLike]

# What methods give: values of a blocking client, coroutines of them of one for asyncio.
Rows = TypeVar("Rows")
Detailed = TypeVar("Detailed")
Info = TypeVar("Info")


class BaseClient(ABC, Generic[Rows, Detailed, Info]):
    """All but the waits of `Client` and `AsyncClient`."""

    _http: ClassVar[type[httpx.Client] | type[httpx.AsyncClient]]

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        retry_seconds: float = 30.0,
        startup_seconds: float = 0.0,
        timeout: float | httpx.Timeout | None = 60.0,
        **options: Any,
    ) -> None:
        """Opens no connection yet.

        Args:
            base_url: of the service.
            api_key: one of the service's keys, where it has keys.
            retry_seconds: how long to go on trying each request when the service is full or not
                ready, or the connection breaks. A batch in parts makes several requests, and
                each has this time of its own, as it has the `timeout`.
            startup_seconds: how long to go on trying when nothing listens at `base_url`, or its
                host's name is not known, as before the service has started, or while it starts
                again; 0 tells it at once.
            timeout: seconds to wait for a connection, or for bytes to come or go; None for ever.
            **options: further ones of `httpx.Client` or `httpx.AsyncClient`: `headers`, `verify`,
                `transport`, ...

        Raises:
            ValueError: the key cannot stand in a header, or `headers` have another.
        """
        if api_key is not None:
            options["headers"] = _with_key(options.get("headers"), api_key)
        options |= {"base_url": base_url, "timeout": timeout}
        self._connections: Connections[Any] = Connections(self._http, options)
        self._exchanges = Exchanges(retry_seconds, startup_seconds)

    def embed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
        features: Sequence[str] | None = None,
        channels: Channels = "joined",
    ) -> Rows:
        """Embeds sequences.

        Args:
            sequences: arrays or tables `[seq_len, embed_dim]`, of any lengths, or one array
                `[batch, seq_len, embed_dim]`. Tables' column names are taken as `features` if the
                model knows the names of its features.
            normalize: whether to scale embeddings to unit length.
            overlong: what to do with sequences longer than the model takes; `embed_detailed`
                tells which were shortened.
            precision: of the numbers on the wire. `int8` comes back as float32, its scales
                applied; `binary` as bits, uint8 `[batch, output_size / 8]`.
            features: the features' names in the order of the columns, for tables none or theirs;
                the service puts them into the model's order, and refuses names that are not the
                model's.
            channels: `apart` to keep all channels, in order, of a model that sees them one by
                one. Such a model takes NaN where a value is missing.

        Returns:
            `[batch, output_size]`, or with channels apart `[batch, channels * channel_size]`,
            float32 or float16 as asked.

        Raises:
            RequestError: the service refused, or something before it did.
            ModelChangedError: the model changed twice before the whole batch was answered.
            SequenceError: `sequences` are not of this form, or the names of their columns do not
                agree with each other or with `features`.
            httpx.TransportError: the service could not be reached in time.
            RuntimeError: the client is closed, or its transport is in use elsewhere.
        """
        exchange = self._exchanges.embed(
            sequences, normalize, overlong, precision, features, channels
        )
        result: Rows = self._run(rows_of(exchange))
        return result

    def embed_detailed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
        features: Sequence[str] | None = None,
        channels: Channels = "joined",
    ) -> Detailed:
        """As `embed`; also tells which rows were shortened, the model, and the time it took.

        Arguments and errors are those of `embed`.

        Returns:
            An `Answer`: `embeddings`, `truncated`, `model` and `timing_ms`.
        """
        exchange = self._exchanges.embed(
            sequences, normalize, overlong, precision, features, channels
        )
        result: Detailed = self._run(exchange)
        return result

    def info(self) -> Info:
        """What `GET /info` tells: `name`, `revision`, `config`, `limits` and more.

        Raises:
            RequestError: the service refused, or something before it did.
            httpx.TransportError: the service could not be reached in time.
        """
        result: Info = self._run(self._exchanges.info())
        return result

    @abstractmethod
    def _run(self, exchange: Exchange[Any]) -> Any:
        """Makes an exchange's requests; its result, or a coroutine that gives it."""


def _with_key(headers: Any, api_key: str) -> httpx.Headers:
    # A key that was read from a file often ends in a line break. No message shows it.
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
        raise ValueError(
            "api_key is empty, or has spaces, line breaks or other characters that are not "
            "printable ASCII; strip what surrounds the key"
        )
    merged = httpx.Headers(headers)
    if "Authorization" in merged:
        raise ValueError("api_key and an Authorization among the headers: give one of them")
    merged["Authorization"] = f"Bearer {api_key}"
    return merged
