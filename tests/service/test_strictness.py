"""What a client gives is taken as it is or refused; nothing is altered or ignored."""

import asyncio

import numpy as np
import pytest

from tests.builders import npy
from tests.service.live import ask, live
from tritserve.service.errors import InvalidError
from tritserve.service.forms.media import JSON, NPY, SAFETENSORS, negotiate
from tritserve.service.forms.options import Options, finish
from tritserve.service.forms.wire import Limits, decode

ONE = npy(np.zeros((1, 1, 3), np.float32))


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("normalize=true&precision=int8", 200),
        ("normalize=false", 200),
        ("normalize=yes", 422),
        ("normalize=1", 422),
        ("normalize=True", 422),
        ("normalize=", 422),
        ("precision=float32&precision=int8", 422),
        ("precision=int8&precision=int8", 422),
    ],
)
def test_query_parameters(engine, query, status):
    async def talk(client):
        answer = await client.post(f"/embed?{query}", content=ONE, headers={"Content-Type": NPY})
        assert answer.status_code == status, answer.text

    ask(engine, talk)


def test_none_of_two_content_types_is_chosen(engine):
    async def talk(client):
        kinds = [("Content-Type", NPY), ("Content-Type", "text/plain")]
        for headers in (kinds, kinds[::-1]):
            answer = await client.post("/embed", content=ONE, headers=headers)
            assert answer.status_code == 415
            assert ", ".join(kind for _, kind in headers) in answer.json()["error"]["message"]

    ask(engine, talk)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ('Application/JSON;charset="UTF-8"', 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
    ],
)
def test_json_is_utf_8(engine, content_type, status):
    async def talk(client):
        body = b'{"sequences": [[[1, 2, 3]]]}'
        answer = await client.post("/embed", content=body, headers={"Content-Type": content_type})
        assert answer.status_code == status, answer.text

    ask(engine, talk)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (f"{NPY}, */*", NPY),
        (f"*/*, {SAFETENSORS}", SAFETENSORS),
        (f"{NPY}, {JSON}", JSON),
        (f"{NPY};q=0.9, */*", JSON),
        (f"application/*;q=0.2, */*, {NPY};q=0.3", NPY),
        (f"{NPY};q=0.3, */*, application/*;q=0.2", NPY),
        ("*/*;q=nan, application/x-npy;q=0.1", NPY),
    ],
)
def test_accept_prefers_what_it_names(accept, media_type):
    assert negotiate(accept) == media_type


def test_a_body_over_the_limit_is_told_its_size(engine):
    async def main():
        async with live(engine, max_body_bytes=100) as client:
            for content in (bytes(150), stream(150)):
                answer = await client.post("/embed", content=content)
                assert answer.status_code == 413
                error = answer.json()["error"]
                assert error["limit"] == 100
                assert 100 < error["size"] <= 150

    async def stream(size):
        for _ in range(size // 10):
            yield bytes(10)

    asyncio.run(main())


def test_a_path_is_not_redirected(engine):
    async def talk(client):
        answer = await client.get("/info/")
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "not_found"

    ask(engine, talk)


def test_overflow_inside_the_model_names_the_row_of_the_request(engine):
    async def talk(client):
        sequences = [[[0.0] * 3]] * 40
        sequences[29] = [[3e38, -3e38, 3e38]]
        answer = await client.post("/embed", json={"sequences": sequences})
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert error["row"] == 29
        assert "sequence 29" in error["message"]

    ask(engine, talk, batch_timesteps=10)


def test_tiny_embeddings_stay_in_the_range_of_int8():
    smallest = np.finfo(np.float32).smallest_subnormal
    rows = np.array([[190 * smallest, 0], [0, 0], [-1e-38, 1e-38]], np.float32)
    embeddings = finish(rows, Options(precision="int8"))
    assert embeddings.scales is not None
    back = embeddings.rows * embeddings.scales[:, None]
    np.testing.assert_allclose(back, rows, atol=np.finfo(np.float32).tiny)
    assert (embeddings.rows[0] >= 0).all()


@pytest.mark.parametrize("shape", ["(True, 4, 4)", "(-1, -1, 4)", "(4, 4, False)"])
def test_npy_shapes_are_whole_numbers(shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with pytest.raises(InvalidError, match="shape"):
        decode(body, NPY, {}, Limits(embed_dim=4, max_timesteps=9, max_sequences=9))
