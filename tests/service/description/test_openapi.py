"""The API's description, as generators of clients read it."""

import re

from tests.service.live import ask
from tritserve.service.forms.media import JSON


def test_parameters_of_paths_are_text_and_none_is_asked_for_elsewhere(engine):
    """Generators of clients leave out a path whose parameter might be null."""

    async def talk(client):
        api = (await client.get("/openapi.json")).json()
        for path, operations in api["paths"].items():
            for method, operation in operations.items():
                given = operation.get("parameters", [])
                named = {p["name"]: p for p in given if p["in"] == "path"}
                assert set(named) == set(re.findall(r"{(\w+)}", path)), path
                for parameter in named.values():
                    assert parameter["required"]
                    assert parameter["schema"]["type"] == "string"
                elsewhere = {p["name"] for p in given} - set(named)
                assert not elsewhere & {"name", "model_version"}, (method, path)

    ask(engine, talk)


def arrays(schema):
    """All schemas of lists that are anywhere in a schema."""
    if isinstance(schema, dict):
        found = [schema] if "array" in (schema.get("type") or ()) else []
        return found + [inner for value in schema.values() for inner in arrays(value)]
    if isinstance(schema, list):
        return [inner for value in schema for inner in arrays(value)]
    return []


def test_every_list_in_the_description_says_of_what(engine):
    async def talk(client):
        api = (await client.get("/openapi.json")).json()
        found = arrays(api["paths"])
        assert len(found) > 10
        assert all("items" in schema for schema in found)

    ask(engine, talk)


def test_hints_are_in_the_description(engine):
    async def talk(client):
        api = (await client.get("/openapi.json")).json()
        infer = api["paths"]["/v2/models/{name}/infer"]["post"]
        schema = infer["requestBody"]["content"][JSON]["schema"]
        hints = schema["properties"]["parameters"]["properties"]
        for name in ("timeout", "priority", "content_type"):
            assert hints[name]["description"]
        assert "sequence_id" not in hints

    ask(engine, talk)
