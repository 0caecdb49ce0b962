"""The routes of the Open Inference Protocol, under /v2."""

import re
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from starlette.convertors import Convertor, register_url_convertor

from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.errors import InvalidError, UnknownPathError
from tritserve.service.http.direct import Injected, add_direct_post
from tritserve.service.oip import tensors
from tritserve.service.oip.rest import openapi
from tritserve.service.oip.rest.form import InferForm


class _ModelName(Convertor[str]):
    """Any text; one with slashes does not end like the path of something else."""

    regex = r"(?:[^/]+|(?s:.+)(?<!/infer)(?<!/ready))"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", _ModelName())
MODEL = "/models/{name:model}"
# Before the model's own, for a name may look like one with a version.
VERSION = MODEL + "/versions/{model_version}"
# Where Triton's clients ask for a model's configuration, and for statistics: names to our routes.
TRITONS = re.compile(r"(.+/)?stats|.+/config", re.DOTALL)


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

    async def model(name: str, model_version: str | None = None) -> dict[str, Any]:
        if TRITONS.fullmatch(name) and name != service.served.about["name"]:
            asked = name.rsplit("/", 1)[-1]
            raise UnknownPathError(f"'{asked}' is an extension of Triton's, which is not served")
        check_model(name, model_version)
        config = service.served.engine.model.config
        return tensors.model_metadata(name, config.embed_dim, config.hidden_size)

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

    for path in (VERSION, MODEL):
        router.get(f"{path}/ready", **openapi.MODEL_READY)(model_ready)
        router.get(path, **openapi.MODEL)(model)
    # A path is looked for in this order: `infer` before a name that might end so.
    for path in (VERSION, MODEL):
        add_direct_post(app, f"/v2{path}/infer", infer, **openapi.INFER)
    app.include_router(router)
