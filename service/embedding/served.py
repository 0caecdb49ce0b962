"""One loaded model as it is served: its engine behind a queue, and what is told of it."""

import asyncio
import logging
import math
import time
from importlib.metadata import version
from typing import Any

from tritserve.model.config import ModelConfig
from tritserve.model.engine.engine import Engine, EngineError
from tritserve.model.environment import available_processors
from tritserve.model.packed.content import PackedModel, shares
from tritserve.model.sequences import SequenceError, Sequences
from tritserve.model.signature import Signature
from tritserve.service.embedding.batcher import Batcher
from tritserve.service.embedding.jobs import Refused, Result
from tritserve.service.forms.choices import Channels
from tritserve.service.forms.cost import TIMESTEPS, Cost
from tritserve.service.forms.wire import Limits, invalid
from tritserve.service.observing.metrics import Metrics
from tritserve.service.observing.notes import note
from tritserve.service.observing.tracing import record_stages
from tritserve.service.settings import Settings

POLL_SECONDS = 0.01
REQUESTS_IN_QUEUE = 8

log = logging.getLogger("tritserve")


def cost_of(config: ModelConfig) -> Cost:
    """How a model counts."""
    channels = config.channels
    return Cost(channels.window, channels.tokens) if channels else TIMESTEPS


def _meaning(signature: Signature) -> dict[str, Any]:
    """Of features and classes what is known."""
    named = {
        "names": signature.feature_names,
        "units": signature.units,
        "sampling_rate": signature.sampling_rate,
    }
    about: dict[str, Any] = {"features": {name: known for name, known in named.items() if known}}
    return about | ({"classes": signature.classes} if signature.classes else {})


def _by_channel(model: PackedModel) -> dict[str, int]:
    """What there is to tell of a model that sees channels one by one; of others, nothing."""
    if not model.config.channels:
        return {}
    known = 0 if model.calibration is None else len(model.calibration[0])
    return {"channel_size": model.config.channel_size, "calibrated_channels": known}


def _layers(model: PackedModel) -> list[dict[str, Any]]:
    """Of each packed layer its name, shape, size and the shares of -1, 0 and +1."""
    return [
        {
            "name": name,
            "shape": layer.shape,
            "bytes": layer.packed.nbytes,
            "shares": shares(layer, model.config.quantize),
        }
        for name, layer in model.layers.items()
    ]


def load_engine(settings: Settings) -> Engine:
    """Loads the packed file; without a setting, workers share the processors evenly.

    Raises:
        OSError: the file cannot be read.
        PackedFileError: it is not valid.
        EngineError: the engine cannot be had as it is set, or does not fit into memory.
    """
    threads = settings.threads or max(1, available_processors() // settings.workers)
    try:
        return Engine.load(settings.model, threads=threads)
    except MemoryError as error:
        raise EngineError(f"{settings.model} does not fit into memory") from error


class ServedModel:
    """A loaded engine and its queue.

    Attributes:
        limits: what a request may be.
        about: the model as answers tell of it.
        users: requests that it is to answer, from before their bodies are read.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics) -> None:
        model = engine.model
        self.engine = engine
        self.limits = Limits(
            embed_dim=model.config.embed_dim,
            signature=model.signature,
            cost=cost_of(model.config),
            max_timesteps=model.config.max_timesteps,
            max_sequences=settings.max_sequences,
            max_request_timesteps=settings.max_request_timesteps
            or max(
                settings.queue_timesteps // REQUESTS_IN_QUEUE,
                settings.batch_timesteps,
                model.config.max_timesteps,
            ),
        )
        self.about: dict[str, Any] = {
            "name": model.name,
            "revision": model.revision,
            "output_size": model.config.output_size,
            "channels": "joined",
            "quantize": model.config.quantize,
            "bits_per_weight": model.bits_per_weight,
        }
        self.users = 0
        self._layers: list[dict[str, Any]] | None = None
        self._settings = settings
        self._metrics = metrics
        self.batcher = Batcher(
            engine.embed,
            refused=(SequenceError,),
            queue_timesteps=settings.queue_timesteps,
            batch_timesteps=settings.batch_timesteps,
            cost=self.limits.cost,
            stuck_seconds=settings.stuck_seconds,
            on_batch=metrics.count_batch,
            on_wait=metrics.queue_seconds.observe,
        )

    async def retire(self, seconds: float | None = None) -> bool:
        """Finishes the requests that use the model, and stops.

        Args:
            seconds: the longest to wait; if not given, for as long as the engine computes.

        Returns:
            Whether all were finished; what was not is answered UnavailableError.
        """
        until = math.inf if seconds is None else time.monotonic() + seconds
        while self.users and time.monotonic() < until:
            if seconds is None and self.batcher.unavailable:
                break
            await asyncio.sleep(POLL_SECONDS)
        # Of those that are not submitted yet, the batcher knows nothing.
        answered = not self.users
        left = 0.0 if seconds is None else max(0.0, until - time.monotonic())
        return await self.batcher.drain(left) and answered

    def about_answer(self, width: int, channels: Channels) -> dict[str, Any]:
        """The model as an answer tells of it, to a request of so many features or channels."""
        if channels == "joined":
            return self.about
        size = width * self.engine.model.config.channel_size
        return self.about | {"output_size": size, "channels": channels}

    async def compute(
        self, sequences: Sequences, deadline: float | None, channels: Channels = "joined"
    ) -> Result:
        """Embeddings of a batch, through the queue; errors are those of an answer."""
        note(sequences=len(sequences), timesteps=len(sequences.values))
        submitted = time.time_ns()
        try:
            apart = channels == "apart"
            result = await self.batcher.submit(sequences, deadline, apart=apart)
        except Refused as refused:
            cause = refused.__cause__
            assert isinstance(cause, SequenceError)
            raise invalid(cause, refused.first_row) from cause
        record_stages(submitted, queue=result.queue_seconds, compute=result.compute_seconds)
        self._metrics.compute_seconds.observe(result.compute_seconds)
        return result

    def announce(self, address: str | None) -> None:
        """Logs what is served, and where if that is known."""
        fields: dict[str, Any] = {"model": self.about["name"], "revision": self.about["revision"]}
        fields |= {"kernel": self.engine.kernel, "threads": self.engine.threads}
        if address:
            fields["address"] = address
        log.info("now serving", extra=fields)

    def info(self) -> dict[str, Any]:
        """The answer of `GET /info`."""
        model, settings = self.engine.model, self._settings
        return {
            "name": model.name,
            "revision": model.revision,
            "version": version("tritserve"),
            "config": model.config.model_dump(),
            **_meaning(model.signature),
            "output_size": model.config.output_size,
            **_by_channel(model),
            "bits_per_weight": model.bits_per_weight,
            "nominal_bits_per_weight": model.nominal_bits_per_weight,
            "bits_per_parameter": model.bits_per_parameter,
            "parameters": model.parameters,
            "packed_bytes": sum(layer.packed.nbytes for layer in model.layers.values()),
            "kernel": self.engine.kernel,
            "threads": self.engine.threads,
            "limits": {
                "max_body_bytes": settings.max_body_bytes,
                "max_sequences": settings.max_sequences,
                "max_timesteps": self.limits.max_timesteps,
                "max_request_timesteps": self.limits.max_request_timesteps,
                "queue_timesteps": settings.queue_timesteps,
                "batch_timesteps": settings.batch_timesteps,
                **self._counting(),
            },
        }

    async def layers(self) -> list[dict[str, Any]]:
        """The layers of `GET /info/layers`; all weights are looked at, the first time."""
        if self._layers is None:
            self._layers = await asyncio.to_thread(_layers, self.engine.model)
        return self._layers

    def _counting(self) -> dict[str, int]:
        """Of a model that does not count timesteps, what each window of each channel counts."""
        cost = self.limits.cost
        return (
            {} if cost.window is None else {"window": cost.window, "window_cost": cost.window_cost}
        )
