"""The routes of the Open Inference Protocol, under /v2."""

from functools import partial
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, Response
from pydantic import BaseModel, ConfigDict

from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.errors import InvalidError
from tritserve.service.http.body import read_body
from tritserve.service.http.direct import Injected, add_direct_post
from tritserve.service.http.incoming import Incoming
from tritserve.service.oip.about import About, check_model
from tritserve.service.oip.rest import openapi
from tritserve.service.oip.rest.form import InferForm, parse

# `OneSegmentNames` makes every name one segment.
MODEL = "/models/{name}"
VERSION = MODEL + "/versions/{model_version}"
MAX_INDEX_BYTES = 4096


class IndexRequest(BaseModel):
    """What may be asked of the repository's index."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ready: bool = False


def add_oip(app: FastAPI, service: EmbeddingService) -> None:
    """Adds the protocol's routes to an application."""
    router = APIRouter(prefix="/v2")
    about = About(service)

    async def check_name(name: str) -> None:
        check_model(unquote(name), about.name, None)

    async def check_version(name: str, model_version: str) -> None:
        check_model(unquote(name), about.name, model_version)

    @router.get("", **openapi.SERVER)
    async def server() -> dict[str, Any]:
        return about.server()

    @router.get("/health/live", **openapi.HEALTH)
    async def live() -> dict[str, bool]:
        service.check_live()
        return {"live": True}

    @router.get("/health/ready", **openapi.HEALTH)
    async def ready() -> dict[str, bool]:
        service.check_ready()
        return {"ready": True}

    @router.post("/repository/index", **openapi.INDEX)
    async def repository_index(incoming: Injected) -> list[dict[str, str]]:
        seconds = service.settings.body_seconds
        body = await read_body(incoming, MAX_INDEX_BYTES, seconds)
        return about.index(parse(IndexRequest, body or b"{}").ready)

    @router.get("/models/stats", **openapi.STATISTICS)
    async def all_statistics() -> dict[str, Any]:
        # This is also the path of a model that has this name.
        return about.model() if about.name == "stats" else await about.statistics()

    async def model() -> dict[str, Any]:
        return about.model()

    async def model_config() -> dict[str, Any]:
        return about.config()

    async def model_statistics() -> dict[str, Any]:
        return await about.statistics()

    async def model_ready() -> dict[str, Any]:
        service.check_ready()
        return {"name": about.name, "ready": True}

    for path, check in ((VERSION, check_version), (MODEL, check_name)):
        get = partial(router.get, dependencies=[Depends(check)])
        get(f"{path}/ready", **openapi.MODEL_READY)(model_ready)
        get(f"{path}/config", **openapi.CONFIG)(model_config)
        get(f"{path}/stats", **openapi.MODEL_STATISTICS)(model_statistics)
        get(path, **openapi.MODEL)(model)

    async def infer(incoming: Injected, name: str) -> Response:
        await check_name(name)
        return await _infer(incoming)

    async def infer_version(incoming: Injected, name: str, model_version: str) -> Response:
        await check_version(name, model_version)
        return await _infer(incoming)

    async def _infer(incoming: Incoming) -> Response:
        if incoming.query:
            raise InvalidError(
                f"the query is {incoming.query[:200]!r}; options are parameters of the request"
            )
        return await service.answer(incoming, InferForm(incoming.headers, about.name))

    add_direct_post(app, f"/v2{VERSION}/infer", infer_version, **openapi.INFER)
    add_direct_post(app, f"/v2{MODEL}/infer", infer, **openapi.INFER)
    app.include_router(router)
