"""Who may ask, and what browsers are told: API keys, CORS and security headers."""

from collections.abc import Callable, Iterable
from hashlib import sha256
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tritserve.service.errors import OriginError, UnauthorizedError
from tritserve.service.http.answers import error_answer
from tritserve.service.paths import is_open
from tritserve.service.settings import Origin

SCHEME = b"bearer "

# They tell browsers to trust little; every answer has them, but where it has its own.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_ALLOWED = ["Authorization", "Content-Type", "Content-Encoding", "Inference-Header-Content-Length"]
_ALLOWED += ["X-Request-Timeout-Ms", "X-Request-ID", "traceparent", "tracestate"]
_EXPOSED = ["Retry-After", "Server-Timing", "X-Request-ID", "traceresponse"]
_EXPOSED += ["Tritserve-Model", "Tritserve-Revision", "Tritserve-Channels", "Tritserve-Truncated"]
_EXPOSED += ["Inference-Header-Content-Length"]


def secure(app: ASGIApp, keys: Callable[[], Iterable[str]], origins: list[Origin]) -> ASGIApp:
    """An application with guards around it: API keys and CORS, each where there are any."""
    if keys():
        app = ApiKeys(app, keys)
    if origins:
        app = _Cors(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=_ALLOWED,
            expose_headers=_EXPOSED,
        )
    return app


class _Cors(CORSMiddleware):
    """CORS whose refusals have the form of every other error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == OriginError.status:
            refusal = error_answer(OriginError(bytes(response.body).decode()), "/")
            response.body = refusal.body
            for name in ("Content-Type", "Content-Length"):
                response.headers[name] = refusal.headers[name]
        return response


def is_one_of(given: str, keys: Iterable[str]) -> bool:
    """Whether a key is among `keys`; takes the same time whatever they have in common."""
    digest = sha256(given.encode()).digest()
    matches = [compare_digest(digest, sha256(key.encode()).digest()) for key in keys]
    return any(matches)


def bearer(header: bytes | None) -> str:
    """The key in an `Authorization: Bearer <key>` header, empty where there is none."""
    if header is None or header[: len(SCHEME)].lower() != SCHEME:
        return ""
    return header[len(SCHEME) :].decode("latin-1").strip()


class ApiKeys:
    """Answers 401, before a body is read, to whoever has none of the keys of the time."""

    def __init__(self, app: ASGIApp, keys: Callable[[], Iterable[str]]) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and not is_open(scope["path"])
        if guarded and not is_one_of(bearer(_authorization(scope)), self.keys()):
            error = UnauthorizedError("this needs an API key: Authorization: Bearer <key>")
            await error_answer(error, scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _authorization(scope: Scope) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == b"authorization"), None)
