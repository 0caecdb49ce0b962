"""Where the page and its files are served; each loads nothing from elsewhere, and no inline script.

All addresses in them are relative, so that a proxy may serve them under a prefix.
"""

from pathlib import Path

from fastapi import FastAPI, Request, Response

from tritserve.service.http.assets import Assets
from tritserve.service.paths import PAGE_FILES

FILES = Path(__file__).parent / "files"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


def add_page(app: FastAPI) -> None:
    """Serves the page at / and what it loads."""
    files = Assets(directory=FILES)
    app.mount(PAGE_FILES, files)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        response = await files.get_response("index.html", request.scope)
        response.headers["Content-Security-Policy"] = POLICY
        return response
