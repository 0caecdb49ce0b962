"""What the Open Inference Protocol's server says of itself and its model: REST and gRPC alike.

Beside the protocol's own metadata, these are what Triton's clients and tools ask for: the model's
configuration, the index of the repository, and statistics. Each is a dictionary of the fields
that are known, by the names that Triton has for them; what is not known is left out.

Source: Triton's extensions (model configuration, model repository, statistics).
"""

import asyncio
from importlib.metadata import version
from typing import Any

from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.errors import UnavailableError, UnknownPathError
from tritserve.service.oip.tensors import MODEL_VERSION

NANOSECONDS = 1e9
# There is no cache.
_NEVER = {"count": 0, "ns": 0}


def check_model(given: str, served: str, model_version: str | None) -> None:
    """Raises UnknownPathError unless the model asked for is the one that is served."""
    if given != served:
        raise UnknownPathError(f"there is no model {given[:200]!r}, only {served!r}")
    if model_version not in {None, MODEL_VERSION}:
        raise UnknownPathError(
            f"{served!r} has no version {model_version[:200]!r}, only {MODEL_VERSION!r}"
        )


class About:
    """Tells of a service.

    Args:
        service: the one that answers.
    """

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service

    @property
    def name(self) -> str:
        """The served model's."""
        name: str = self._service.served.about["name"]
        return name

    def server(self) -> dict[str, Any]:
        """The server's metadata."""
        return {
            "name": "tritserve",
            "version": version("tritserve"),
            "extensions": ["binary_tensor_data", "model_configuration", "statistics"],
        }

    def model(self) -> dict[str, Any]:
        """The model's metadata."""
        config = self._service.served.engine.model.config
        return {
            "name": self.name,
            "versions": [MODEL_VERSION],
            "platform": "tritserve",
            "inputs": [
                {"name": "values", "datatype": "FP32", "shape": [-1, config.embed_dim or -1]},
                {"name": "lengths", "datatype": "INT64", "shape": [-1]},
            ],
            "outputs": [
                {"name": "embeddings", "datatype": "FP32", "shape": [-1, config.output_size]}
            ],
        }

    def config(self) -> dict[str, Any]:
        """The model's configuration.

        `max_batch_size` is 0, by which Triton says that shapes are whole: no first axis that
        counts the batch is left out of them.
        """
        model = self.model()
        return {
            "name": model["name"],
            "platform": model["platform"],
            "backend": model["platform"],
            "max_batch_size": 0,
            "input": [_to_config(tensor) for tensor in model["inputs"]],
            "output": [_to_config(tensor) for tensor in model["outputs"]],
            "model_transaction_policy": {"decoupled": False},
        }

    def index(self, only_ready: bool) -> list[dict[str, str]]:
        """The models of the repository: one, and if not ready, why."""
        state = {"state": "READY", "reason": ""}
        try:
            self._service.check_ready()
        except UnavailableError as error:
            if only_ready:
                return []
            state = {"state": "UNAVAILABLE", "reason": error.message}
        return [{"name": self.name, "version": MODEL_VERSION, **state}]

    async def statistics(self) -> dict[str, Any]:
        """What was inferred since the service started, in all of its workers.

        An inference is one sequence, an execution one call of the engine. Durations are sums over
        answered requests, and count no others: of decoding (`compute_input`), of waiting (`queue`),
        of the engine's calls (`compute_infer`), and of encoding (`compute_output`); `success` is
        the sum of all four.
        """
        metrics = self._service.metrics
        # The files of many workers take a while.
        found = await asyncio.to_thread(metrics.totals) if metrics.shared else metrics.totals()

        stages = {
            "queue": "queue",
            "compute_input": "decode",
            "compute_infer": "compute",
            "compute_output": "encode",
        }
        seconds = {
            name: found[f"tritserve_answered_seconds_total/{stage}"]
            for name, stage in stages.items()
        }
        # An answer is counted where its encoding is.
        answers = int(found["tritserve_encode_seconds_count"])

        def duration(total: float) -> dict[str, int]:
            return {"count": answers, "ns": round(NANOSECONDS * total)}

        model = {
            "name": self.name,
            "version": MODEL_VERSION,
            "inference_count": int(found["tritserve_batch_sequences_sum"]),
            "execution_count": int(found["tritserve_batch_seconds_count"]),
            "inference_stats": {
                "success": duration(sum(seconds.values())),
                **{name: duration(total) for name, total in seconds.items()},
                "cache_hit": _NEVER,
                "cache_miss": _NEVER,
            },
        }
        return {"model_stats": [model]}


def _to_config(tensor: dict[str, Any]) -> dict[str, Any]:
    data_type = f"TYPE_{tensor['datatype']}"
    return {"name": tensor["name"], "data_type": data_type, "dims": tensor["shape"]}
