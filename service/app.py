"""The HTTP application: routes, error answers and request metrics around one engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from tritserve.model.engine.engine import Engine
from tritserve.model.errors import UserError
from tritserve.service.description import openapi
from tritserve.service.description.docs import add_docs
from tritserve.service.description.examples import add_examples
from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.errors import (
    ReloadError,
    ServiceError,
    UnauthorizedError,
    UnknownPathError,
    WrongMethodError,
)
from tritserve.service.forms.embed import EmbedForm
from tritserve.service.http.answers import error_answer
from tritserve.service.http.bugs import CatchBugs
from tritserve.service.http.credentials import CredentialsError
from tritserve.service.http.direct import DirectPosts, Injected, add_direct_post
from tritserve.service.http.heads import Heads
from tritserve.service.http.observed import Observed
from tritserve.service.http.security import SECURITY_HEADERS, bearer, is_one_of, secure
from tritserve.service.observing.metrics import Metrics
from tritserve.service.observing.tracing import Traced
from tritserve.service.oip.grpc import extra as grpc_extra
from tritserve.service.oip.rest.names import OneSegmentNames
from tritserve.service.oip.rest.routes import add_oip
from tritserve.service.page.routes import add_page
from tritserve.service.paths import ROUTES
from tritserve.service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def create_app(
    settings: Settings,
    engine: Engine,
    traces: "TracerProvider | None" = None,
    reload_others: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application around a loaded engine.

    Args:
        settings: of the service.
        engine: the loaded model.
        traces: where spans go, if anywhere.
        reload_others: makes the other workers load the packed file again.
    """
    grpc_extra.check(settings)
    routes = (*ROUTES, *grpc_extra.routes(settings))
    metrics = Metrics(routes, openapi.STATUSES)
    service = EmbeddingService(settings, engine, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        async with grpc_extra.serving(service, traces):
            try:
                yield
            finally:
                if not service.draining:
                    await service.finish()

    app = _Application(
        title="tritserve",
        version=version("tritserve"),
        description="Embeddings of numeric sequences, computed from 1.58-bit or 1-bit weights.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Ours is in `tritserve.service.observing`.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = service
    app.state.keyed = bool(service.credentials.keys)
    app.add_middleware(CatchBugs)
    app.add_exception_handler(ServiceError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    _add_service(app, service)
    _add_administration(app, service, reload_others)
    add_oip(app, service)
    add_docs(app)
    add_page(app)
    # Around all that FastAPI and Starlette put around the routes, which direct ones do without.
    routed = DirectPosts(Heads(app.build_middleware_stack()), app.routes)
    answered = OneSegmentNames(routed, lambda: str(service.served.about["name"]))
    guarded = secure(answered, lambda: service.credentials.keys, settings.cors_origins)
    traced = Traced(guarded, traces) if traces else guarded
    app.middleware_stack = Observed(traced, metrics, SECURITY_HEADERS)
    return app


class _Application(FastAPI):
    """FastAPI whose description says what needs a key."""

    def openapi(self) -> dict[str, Any]:
        made = self.openapi_schema
        description = super().openapi()
        if not made:
            openapi.complete(description, self.state.keyed)
        # A reload may bring a model of another width.
        add_examples(description, self.state.service.served.limits)
        return description


def _add_service(app: FastAPI, service: EmbeddingService) -> None:
    async def embed(incoming: Injected) -> Response:
        return await service.answer(incoming, EmbedForm(incoming))

    add_direct_post(app, "/embed", embed, **openapi.EMBED)

    @app.get("/info", **openapi.INFO)
    async def info() -> dict[str, Any]:
        return service.served.info()

    @app.get("/info/layers", **openapi.LAYERS)
    async def layers() -> dict[str, Any]:
        served = service.served
        return {"revision": served.about["revision"], "layers": await served.layers()}

    @app.get("/health/live", **openapi.LIVE)
    async def live() -> dict[str, str]:
        service.check_live()
        return {"status": "live"}

    @app.get("/health/ready", **openapi.READY)
    async def ready() -> dict[str, str]:
        service.check_ready()
        return {"status": "ready"}

    @app.get("/metrics", **openapi.METRICS)
    async def metrics() -> Response:
        service.refresh_metrics()
        # The files of many workers take a while.
        render = service.metrics.render
        content = await asyncio.to_thread(render) if service.metrics.shared else render()
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_administration(
    app: FastAPI, service: EmbeddingService, reload_others: Callable[[], None]
) -> None:
    if not service.settings.admin_key:
        return
    admin_key = service.settings.admin_key.get_secret_value()

    @app.post("/admin/reload", **openapi.RELOAD)
    async def reload(request: Request) -> dict[str, Any]:
        given = request.headers.get("authorization", "").encode("latin-1")
        if not is_one_of(bearer(given), [admin_key]):
            raise UnauthorizedError("this needs the admin key: Authorization: Bearer <key>")
        try:
            return await service.reload()
        except CredentialsError as error:
            raise ReloadError(str(error)) from error
        except (OSError, UserError) as error:
            raise ReloadError(f"the old model goes on: {error}") from error
        finally:
            # Keys and the certificate are read again whatever becomes of the model.
            reload_others()


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return error_answer(error, request.url.path)


async def _answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == WrongMethodError.status:
        methods = (error.headers or {}).get("Allow", "").split(", ")
        if "GET" in methods and "HEAD" not in methods:
            methods.insert(1 + methods.index("GET"), "HEAD")
        allow = ", ".join(methods)
        message = f"{path} does not take {request.method}, only {allow}"
        return await _answer_error(request, WrongMethodError(message, allow=allow))
    return await _answer_error(request, UnknownPathError(f"nothing is served at {path}"))
