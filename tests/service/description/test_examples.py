"""The examples in the API's description, which the page at /docs sends."""

import pytest

from tests.builders import CHANNELS, random_packed
from tests.service.live import ask
from tritserve.model.engine.engine import Engine

HEADERS = {"Authorization": "Bearer administrator"}


async def answers(client):
    """What each POST route with an example answers to it, by its path."""
    api = (await client.get("/openapi.json")).json()
    name = (await client.get("/info")).json()["name"]
    found = {}
    for path, operations in api["paths"].items():
        body = operations.get("post", {}).get("requestBody", {"content": {}})
        example = body["content"].get("application/json", {}).get("example")
        if example:
            url = path.format(name=name, model_version="1")
            found[path] = await client.post(url, json=example)
    assert set(found) == {
        "/embed",
        "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{model_version}/infer",
    }
    return found


@pytest.mark.parametrize(("embed_dim", "window_size"), [(12, 30), (1, 1), (3, 2)])
def test_the_examples_are_requests_to_the_served_model(tmp_path, embed_dim, window_size):
    model = tmp_path / "model.safetensors"
    random_packed(model, embed_dim=embed_dim, hidden_size=16, window_size=window_size)

    async def talk(client):
        for answer in (await answers(client)).values():
            assert answer.status_code == 200, answer.text

    ask(Engine.load(model), talk)


def test_the_examples_are_requests_to_a_model_of_any_number_of_channels(tmp_path):
    model = tmp_path / "model.safetensors"
    random_packed(model, **CHANNELS)

    async def talk(client):
        found = await answers(client)
        assert all(answer.status_code == 200 for answer in found.values())
        api = (await client.get("/openapi.json")).json()
        body = api["paths"]["/embed"]["post"]["requestBody"]["content"]["application/json"]
        assert len(body["example"]["sequences"][0][0]) == 3

    ask(Engine.load(model), talk)


def test_the_examples_are_those_of_the_model_that_a_reload_brought(tmp_path):
    model = tmp_path / "model.safetensors"
    random_packed(model, embed_dim=3, hidden_size=16)
    engine = Engine.load(model)

    async def talk(client):
        await answers(client)
        random_packed(model, embed_dim=5, hidden_size=16)
        assert (await client.post("/admin/reload", headers=HEADERS)).status_code == 200
        for answer in (await answers(client)).values():
            assert answer.status_code == 200, answer.text

    ask(engine, talk, model=model, admin_key="administrator")
