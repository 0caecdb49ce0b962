"""The paths that are served, and what sets some of them apart."""

ROUTES = (
    "/",
    "/embed",
    "/info",
    "/info/layers",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/admin/reload",
    "/v2",
    "/v2/health",
    "/v2/infer",
    "other",
)
"""What requests are counted under."""

_HEALTH = ("/health/", "/v2/health/")
_DESCRIPTION = ("/docs", "/openapi.json")
_DOCS_ASSETS = "/docs/assets/"
PAGE_FILES = "/page"
ADMIN = "/admin/"


def route_of(path: str) -> str:
    """Under which of `ROUTES` a request is counted."""
    if path in ROUTES:
        return path
    if is_oip(path):
        if is_health(path):
            return "/v2/health"
        return "/v2/infer" if path.endswith("/infer") else "/v2"
    if _is_page(path):
        return "/"
    return "other"


def is_oip(path: str) -> bool:
    """Whether the Open Inference Protocol is spoken there."""
    return path == "/v2" or path.startswith("/v2/")


def is_health(path: str) -> bool:
    """Whether probes ask there."""
    return path.startswith(_HEALTH)


def is_polled(path: str) -> bool:
    """Whether machines ask there every few seconds."""
    return path == "/metrics" or is_health(path)


def _is_page(path: str) -> bool:
    """Whether the page is there, or a file that it loads."""
    return path == "/" or path.startswith(f"{PAGE_FILES}/")


def is_open(path: str) -> bool:
    """Whether no API key is asked for.

    Probes have none, administration has a key of its own, and the page and the API's description
    hold no secret: a key is given there, to what is called from there.
    """
    described = path in _DESCRIPTION or path.startswith(_DOCS_ASSETS) or _is_page(path)
    return described or is_health(path) or path.startswith(ADMIN)
