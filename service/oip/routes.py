"""The routes of the Open Inference Protocol, under /v2."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Response

from service.direct import Injected, add_direct_post
from service.embedding import EmbeddingService
from service.errors import InvalidError
from service.oip import openapi, tensors
from service.oip.rest import InferForm


def add_oip(app: FastAPI, service: EmbeddingService) -> None:
    """Adds the protocol's routes to an application."""
    router = APIRouter(prefix="/v2")

    def check_model(name: str, model_version: str | None = None) -> None:
        tensors.check_model(name, service.served.about["name"], model_version)

    @router.get("", **openapi.SERVER)
    async def server() -> dict[str, Any]:
        return tensors.server_metadata(version("tritserve"))

    @router.get("/health/live", **openapi.HEALTH)
    async def live() -> dict[str, bool]:
        service.check_live()
        return {"live": True}

    @router.get("/health/ready", **openapi.HEALTH)
    async def ready() -> dict[str, bool]:
        service.check_ready()
        return {"ready": True}

    @router.get("/models/{name}", **openapi.MODEL)
    @router.get("/models/{name}/versions/{model_version}", **openapi.MODEL)
    async def model(name: str, model_version: str | None = None) -> dict[str, Any]:
        check_model(name, model_version)
        config = service.served.engine.model.config
        return tensors.model_metadata(name, config.embed_dim, config.hidden_size)

    @router.get("/models/{name}/ready", **openapi.MODEL_READY)
    @router.get("/models/{name}/versions/{model_version}/ready", **openapi.MODEL_READY)
    async def model_ready(name: str, model_version: str | None = None) -> dict[str, Any]:
        check_model(name, model_version)
        service.check_ready()
        return {"name": name, "ready": True}

    async def infer(incoming: Injected, name: str, model_version: str | None = None) -> Response:
        check_model(name, model_version)
        if incoming.query:
            raise InvalidError(
                f"the query is {incoming.query[:200]!r}; options are parameters of the request"
            )
        return await service.answer(incoming, InferForm(incoming.headers))

    app.include_router(router)
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{model_version}/infer"):
        add_direct_post(app, path, infer, **openapi.INFER)
