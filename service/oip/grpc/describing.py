"""What gRPC's calls about the server and its model are answered, all but `ModelInfer`."""

from contextlib import suppress
from typing import Any

from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.errors import InvalidError, UnavailableError
from tritserve.service.oip.about import About, check_model
from tritserve.service.oip.grpc.form import parse
from tritserve.service.oip.grpc.messages import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

# Methods whose message says something, with its class; those of the others are empty.
ASKING = {
    "ModelReady": ModelReadyRequest,
    "ModelMetadata": ModelMetadataRequest,
    "ModelConfig": ModelConfigRequest,
    "ModelStatistics": ModelStatisticsRequest,
    "RepositoryIndex": RepositoryIndexRequest,
}
# Messages of gRPC's own health protocol: their first field is the status.
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class Describer:
    """Answers them.

    Args:
        service: what is asked about.
    """

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service
        self._about = About(service)

    async def describe(self, method: str, body: bytes) -> bytes:
        """The answer to a message.

        Raises:
            UnparseableError: the message is none of the method's.
            UnknownPathError: it asks about another model than the one that is served.
            InvalidError: it asks for what is not there.
        """
        if method == "Check":
            return SERVING if self._is_ready() else NOT_SERVING
        asked = parse(ASKING[method], body) if method in ASKING else None
        serialized: bytes = (await self._answer(method, asked)).SerializeToString()
        return serialized

    async def _answer(self, method: str, asked: Any) -> Any:
        match method:
            case "ServerLive":
                return ServerLiveResponse(live=_holds(self._service.check_live))
            case "ServerReady":
                return ServerReadyResponse(ready=self._is_ready())
            case "ServerMetadata":
                return ServerMetadataResponse(**self._about.server())
            case "RepositoryIndex":
                return self._index(asked)
        return await self._describe_model(method, asked)

    def _index(self, asked: Any) -> Any:
        if asked.repository_name:
            raise InvalidError(
                f"there is no repository {asked.repository_name[:200]!r}; the only one has no name"
            )
        return RepositoryIndexResponse(models=self._about.index(asked.ready))

    async def _describe_model(self, method: str, asked: Any) -> Any:
        about = self._about
        if asked.name or method != "ModelStatistics":
            check_model(asked.name, about.name, asked.version or None)
        match method:
            case "ModelReady":
                return ModelReadyResponse(ready=self._is_ready())
            case "ModelMetadata":
                return ModelMetadataResponse(**about.model())
            case "ModelConfig":
                return ModelConfigResponse(config=about.config())
        return ModelStatisticsResponse(**await about.statistics())

    def _is_ready(self) -> bool:
        return _holds(self._service.check_ready)


def _holds(check: Any) -> bool:
    with suppress(UnavailableError):
        check()
        return True
    return False
