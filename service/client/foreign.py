"""Answers that are not of the service's making: what they say, and what helps."""

import html
import re

import httpx

from tritserve.model.text import printable

MAX_READ = 10_000
MAX_SHOWN = 200

_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)

_CREDENTIALS = "something before the service wants credentials of its own"
_ADVICE = {
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: "is base_url that of a tritserve service, with its path?",
    407: _CREDENTIALS,
    408: "the request took too long to arrive for a proxy; send less at once",
    413: "a proxy takes no body of this size, and a sequence cannot be split; let it take larger "
    "ones (nginx: client_max_body_size)",
    502: "a proxy got no answer of the service: does it run where the proxy looks for it?",
    503: "a proxy found no service that is ready",
    504: "a proxy waited no longer for the service; let it wait longer (nginx: "
    "proxy_read_timeout), or send less at once",
}


def describe(response: httpx.Response, lack: str | None = None) -> str:
    """What such an answer is, in the words of its text, and what to do.

    Args:
        response: whose body was read.
        lack: what a success should have held.
    """
    server = printable(response.headers.get("server", "something else"))
    parts = [f"the answer is not of a tritserve service but of {server}"]
    if text := _text(response):
        parts[0] += f": {text}"
    if lack:
        parts.append(lack)
    if response.has_redirect_location:
        parts.append(f"base_url has moved to {printable(response.headers['location'])}")
    elif response.status_code in _ADVICE:
        parts.append(_ADVICE[response.status_code])
    return "; ".join(parts)


def _text(response: httpx.Response) -> str:
    text = response.text[:MAX_READ]
    if "html" in response.headers.get("content-type", "") or text.lstrip().startswith("<"):
        text = html.unescape(_MARKUP.sub(" ", text))
    return printable(" ".join(text.split()))[:MAX_SHOWN]
