"""The API's page at /docs, with its assets served from here: nothing is loaded from elsewhere.

The page has one inline script. Its policy names that script by its hash, so that no other inline
script runs.
"""

import re
from base64 import b64encode
from hashlib import sha256

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from tritserve.service.http.assets import Assets

_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def add_docs(app: FastAPI) -> None:
    """Serves /docs and what it loads."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="tritserve",
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-32x32.png",
    )
    policy = {"Content-Security-Policy": _policy(bytes(page.body))}
    app.mount("/docs/assets", Assets(packages=[("fastapi_swagger", "resources")]))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page.body, headers=policy)


def _policy(page: bytes) -> str:
    hashes = [b64encode(sha256(s).digest()).decode() for s in _INLINE_SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
