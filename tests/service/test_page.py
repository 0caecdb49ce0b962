"""The page at / over HTTP; tests/end_to_end/test_page.py looks at it in a browser."""

import re

import numpy as np

from tests.service.live import ask
from tritserve.service.page.routes import FILES

KEY = {"Authorization": "Bearer hush-hush"}
# No address but a namespace, no path from the root, nothing inline.
FORBIDDEN = re.compile(
    rb"//(?!www\.w3\.org/2000/svg)\w|[\"'(]/\w|<style|\sstyle=|\son\w+=|javascript:"
)


def test_the_page_and_its_files_need_no_key_and_tell_nothing_that_does(engine):
    async def talk(client):
        page = await client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        for path in sorted(FILES.iterdir()):
            answer = await client.get(f"/page/{path.name}")
            assert answer.status_code == 200
            assert answer.content == path.read_bytes()
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await client.get("/page/")).status_code == 404
        assert (await client.get("/page/%2e%2e/routes.py")).status_code == 404
        assert (await client.get("/info/layers")).status_code == 401
        assert (await client.get("/info/layers", headers=KEY)).status_code == 200

    ask(engine, talk, api_keys="hush-hush")


def test_the_pages_policy_lets_it_load_its_own_files_and_nothing_else(engine):
    async def talk(client):
        policy = (await client.get("/")).headers["content-security-policy"]
        directives = dict(part.split(" ", 1) for part in policy.split("; "))
        assert directives["default-src"] == "'none'"
        assert directives["frame-ancestors"] == "'none'"
        assert set(directives.values()) == {"'none'", "'self'"}

    ask(engine, talk)


def test_no_file_of_the_page_names_another_place_or_holds_inline_code():
    for path in FILES.iterdir():
        text = re.sub(rb"^\s*(//|\*|/\*).*$", b"", path.read_bytes(), flags=re.MULTILINE)
        assert not FORBIDDEN.findall(text), path.name


def test_the_page_is_kept_by_browsers_and_asked_for_anew(engine):
    async def talk(client):
        for path in ("/", "/page/page.js"):
            first = await client.get(path)
            assert first.headers["cache-control"] == "no-cache"
            head = await client.head(path)
            assert (head.status_code, head.headers["etag"]) == (200, first.headers["etag"])
            again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            refused = await client.post(path)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        metrics = (await client.get("/metrics")).text
        assert 'tritserve_requests_total{route="/",status="304"} 2.0' in metrics

    ask(engine, talk)


def test_the_shares_of_trits_are_those_of_the_weights(engine):
    async def talk(client):
        answer = (await client.get("/info/layers")).json()
        assert answer["revision"] == engine.model.revision
        return answer["layers"]

    layers = ask(engine, talk)
    assert [layer["name"] for layer in layers] == list(engine.model.layers)
    for layer in layers:
        packed = engine.model.layers[layer["name"]]
        assert (tuple(layer["shape"]), layer["bytes"]) == (packed.shape, packed.packed.nbytes)
        # Five trits in a byte, the first in the lowest place; the last byte is filled with zeros.
        powers = 3 ** np.arange(5)
        trits = (packed.packed[:, None] // powers % 3).ravel()[: np.prod(packed.shape)]
        counts = np.bincount(trits.astype(int), minlength=3)
        np.testing.assert_allclose(layer["shares"], counts / counts.sum())
