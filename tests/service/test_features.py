"""Features by name: what the service tells of them, and requests that name their columns."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests.builders import npy, random_bitnet
from tests.service.live import ask
from tritserve.model.engine.engine import Engine
from tritserve.model.packed.file import read
from tritserve.model.signature import Signature
from tritserve.model.training.export import export
from tritserve.service.commands.describe import describe
from tritserve.service.forms.media import NPY, SAFETENSORS

NAMES = ["acc x", "acc, y", "Größe"]
KNOWN = Signature(
    feature_names=NAMES, units=["m/s2", "m/s2", ""], sampling_rate=50.0, classes=["off", "on"]
)
VALUES = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
TURNED = [2, 0, 1]
TURNED_NAMES = [NAMES[i] for i in TURNED]
# As a row of CSV.
TURNED_TEXT = 'Größe,acc x,"acc, y"'


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    path = tmp_path_factory.mktemp("named") / "m"
    model = random_bitnet(embed_dim=3, window_size=9)
    export(model, path, name="m", training={}, signature=KNOWN)
    return Engine.load(path)


def embed(engine, **request):
    async def talk(client):
        return await client.post("/embed", **request)

    return ask(engine, talk)


def requests(values, names, text):
    """The same request in every form that `POST /embed` takes."""
    flat, lengths = values.reshape(8, -1), np.full(2, 4)
    sequences = {"sequences": values.tolist()}
    whole = json.dumps(sequences | {"features": names}, ensure_ascii=False)
    return [
        {"json": sequences | {"features": names}},
        {"json": sequences, "params": {"features": text}},
        # So long that it is read in pieces.
        {"content": whole.replace("[", "[" + 70_000 * " ", 1)},
        {"content": npy(values), "headers": {"Content-Type": NPY}, "params": {"features": text}},
        {
            "content": safetensors.numpy.save({"values": flat, "lengths": lengths}),
            "headers": {"Content-Type": SAFETENSORS},
            "params": {"features": text},
        },
        {
            "content": safetensors.numpy.save(
                {"values": flat, "lengths": lengths}, {"features": text}
            ),
            "headers": {"Content-Type": SAFETENSORS},
        },
    ]


def with_json(request):
    return {"headers": {"Content-Type": "application/json"}} | request


def test_info_tells_what_is_known(named, engine):
    async def talk(client):
        return (await client.get("/info")).json()

    told = ask(named, talk)
    assert told["features"] == {
        "names": NAMES,
        "units": ["m/s2", "m/s2", ""],
        "sampling_rate": 50.0,
    }
    assert told["classes"] == ["off", "on"]
    unknown = ask(engine, talk)
    assert unknown["features"] == {}
    assert "classes" not in unknown


def test_columns_in_another_order_give_the_same_embeddings(named):
    expected = embed(named, json={"sequences": VALUES.tolist()}).json()["embeddings"]
    turned = np.ascontiguousarray(VALUES[..., TURNED])
    assert embed(named, json={"sequences": turned.tolist()}).json()["embeddings"] != expected
    for request in requests(turned, TURNED_NAMES, TURNED_TEXT):
        answer = embed(named, **with_json(request))
        assert answer.status_code == 200, answer.text
        assert answer.json()["embeddings"] == expected


def test_names_in_order_change_nothing(named):
    expected = embed(named, json={"sequences": VALUES.tolist()}).json()["embeddings"]
    for request in requests(VALUES, NAMES, 'acc x,"acc, y",Größe'):
        assert embed(named, **with_json(request)).json()["embeddings"] == expected


@pytest.mark.parametrize("width", [2, 3, 4])
def test_other_names_are_refused_with_those_that_are_at_fault(named, width):
    names = ["gyro", "acc x", "temp", "acc, y"][:width]
    text = 'gyro,acc x,temp,"acc, y"' if width == 4 else ",".join(names)
    missing = [name for name in NAMES if name not in names]
    unknown = [name for name in sorted(names) if name not in NAMES]
    for request in requests(np.ones((2, 4, width), np.float32), names, text)[::2]:
        answer = embed(named, **with_json(request))
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["type"], error["field"]) == ("invalid", "features")
        assert (error["missing"], error["unknown"]) == (missing, unknown)
        assert all(repr(name) in error["message"] for name in missing + unknown)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["acc x", "acc x", "Größe"], "the feature 'acc x' is named twice"),
        (["\x1b[2J", "acc, y", "Größe"], r"missing 'acc x'; unknown '\x1b[2J'"),
        (["a" * 101, "b", "c"], "at most 100 characters"),
        ([1, 2, 3], "valid string"),
        ("a", "missing 'acc x', 'acc, y', 'Größe'; unknown 'a'"),
        ('"acc x', "no row of CSV"),
        ({"acc x": 0}, "valid array"),
        (None, "valid array"),
    ],
)
def test_names_that_are_none_are_refused(named, names, message):
    answer = embed(named, json={"sequences": VALUES.tolist(), "features": names})
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]


def test_no_names_are_not_those_of_the_model(named, engine):
    for request in requests(VALUES, [], ""):
        answer = embed(named, **with_json(request))
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["field"], error["missing"]) == ("features", NAMES)
        assert embed(engine, **with_json(request)).status_code == 422


def test_the_description_offers_no_empty_list_of_names(engine):
    async def talk(client):
        return (await client.get("/openapi.json")).json()

    body = ask(engine, talk)["paths"]["/embed"]["post"]["requestBody"]["content"]
    schema = body["application/json"]["schema"]["properties"]["features"]
    assert "default" not in schema
    assert schema["minItems"] == 1


@pytest.mark.parametrize("form", [0, 5])
def test_names_in_the_body_and_in_the_query_are_refused(named, form):
    request = requests(VALUES, NAMES, TURNED_TEXT)[form]
    answer = embed(named, **request, params={"features": TURNED_TEXT})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "features is in the body and in the query"


def test_metadata_that_other_libraries_write_is_passed_over(named):
    tensors = {"values": VALUES.reshape(8, 3), "lengths": np.full(2, 4)}
    content = safetensors.numpy.save(tensors, {"format": "pt"})
    assert embed(named, content=content, headers={"Content-Type": SAFETENSORS}).is_success


def test_names_in_metadata_that_are_no_row_of_csv_are_refused(named):
    answer = embed(named, **requests(VALUES, NAMES, '"acc x')[5])
    assert answer.status_code == 422
    assert "metadata: features: " in answer.json()["error"]["message"]


def test_named_columns_and_values_must_be_as_many(named):
    values = np.ones((1, 2, 2), np.float32)
    request = {"content": npy(values), "headers": {"Content-Type": NPY}}
    answer = embed(named, params={"features": TURNED_TEXT}, **request)
    assert answer.status_code == 422
    assert "3 features are named, values have 2" in answer.json()["error"]["message"]


def test_a_model_without_names_refuses_them_in_words(engine):
    for request in requests(VALUES, NAMES, TURNED_TEXT):
        answer = embed(engine, **with_json(request))
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert "the model does not know the names of its features" in error["message"]
        assert error["field"] == "features"


def test_the_open_inference_protocol_takes_names_as_a_parameter(named):
    def infer(values, **parameters):
        tensor = {"name": "values", "datatype": "FP32", "shape": [2, 4, 3]}
        body = {"inputs": [tensor | {"data": values.tolist()}], "parameters": parameters}

        async def talk(client):
            return await client.post("/v2/models/m/infer", json=body)

        return ask(named, talk)

    expected = infer(VALUES).json()["outputs"][0]["data"]
    turned = infer(VALUES[..., TURNED], features=TURNED_TEXT)
    assert turned.json()["outputs"][0]["data"] == expected
    assert "unknown 'a'" in infer(VALUES, features="a").json()["error"]


def test_inspect_shows_names(named, tmp_path):
    export(
        random_bitnet(embed_dim=3), tmp_path / "m", name="\x1b[2Jm", training={}, signature=KNOWN
    )
    shown = describe(read(tmp_path / "m"))
    assert "\x1b" not in shown
    assert "sampled at 50 Hz\nfeatures acc x (m/s2), acc, y (m/s2), Größe\nclasses off, on" in shown
