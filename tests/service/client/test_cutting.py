"""Sequences that the model would see only a part of."""

import numpy as np
import pytest

from tests.builders import random_batch, random_packed
from tests.service.client.test_client import Seen, against_app
from tritserve.model.engine.engine import Engine
from tritserve.model.sequences import SequenceError
from tritserve.service.client.client import ModelChangedError

LONG = random_batch([3, 500, 9, 700], 3).split()


@pytest.mark.parametrize("overlong", ["keep_last", "keep_first"])
@pytest.mark.parametrize("known", [False, True])
def test_a_series_above_the_timesteps_of_a_request_is_cut_before_it_is_sent(
    engine, overlong, known
):
    async def talk(client):
        if known:
            await client.info()
        return await client.embed_detailed(LONG, overlong=overlong)

    expected = against_app(engine, talk)
    answer = against_app(engine, talk, max_request_timesteps=100)
    assert answer.embeddings.tobytes() == expected.embeddings.tobytes()
    assert answer.truncated == expected.truncated == [1, 3]


def test_a_series_larger_than_a_body_is_cut_before_it_is_sent(engine):
    bodies = []

    async def weigh(_, request):
        bodies.append(len(request.content))

    async def talk(client):
        series = np.ones((200_000, 3), np.float32)
        return await client.embed_detailed([series], overlong="keep_last")

    answer = against_app(engine, talk, weigh)
    assert answer.truncated == [0]
    assert max(bodies) < 1_000


def test_what_is_cut_off_must_be_finite_too(engine):
    """As the service would tell, had it seen it."""
    series = LONG[1].copy()
    series[5, 2] = np.nan

    async def talk(client):
        await client.info()
        with pytest.raises(SequenceError, match="sequence 1, timestep 5, feature 2 is nan"):
            await client.embed([LONG[0], series], overlong="keep_last")

    against_app(engine, talk, max_request_timesteps=100)


@pytest.mark.parametrize("reloads", [1, 2])
def test_a_series_that_was_cut_for_another_model_is_cut_anew(tmp_path, reloads):
    path = tmp_path / "m"
    seen = Seen()

    def write(window):
        random_packed(path, embed_dim=3, hidden_size=16, num_layers=1, window_size=window)

    async def reload(app, request):
        await seen(app, request)
        if request.url.path == "/embed" and seen.paths.count("/embed") <= reloads:
            write(20 + len(seen.paths))
            await app.state.service.reload()

    async def talk(client):
        await client.info()
        return await client.embed_detailed(LONG, overlong="keep_last")

    write(9)
    engine = Engine.load(path)
    if reloads == 2:
        with pytest.raises(ModelChangedError, match="twice, the model changed"):
            against_app(engine, talk, reload, model=path)
        return
    answer = against_app(engine, talk, reload, model=path)
    fresh = Engine.load(path)
    most = fresh.model.config.max_timesteps
    assert answer.model.revision == fresh.model.revision != engine.model.revision
    right = [fresh.embed(part[-most:], np.array([len(part[-most:])])) for part in LONG]
    assert answer.embeddings.tobytes() == np.concatenate(right).tobytes()


def test_a_cut_counts_for_the_model_that_it_was_made_for(tmp_path):
    """Even if another task learns meanwhile of the model that answers."""
    path, clients, seen = tmp_path / "m", [], Seen()

    def write(window):
        random_packed(path, embed_dim=3, hidden_size=16, num_layers=1, window_size=window)

    async def reload(app, request):
        await seen(app, request)
        if seen.paths == ["/info", "/embed"]:
            write(20)
            await app.state.service.reload()
            await clients[0].info()

    async def talk(client):
        clients.append(client)
        await client.info()
        return await client.embed_detailed(LONG, overlong="keep_last")

    write(9)
    answer = against_app(Engine.load(path), talk, reload, model=path)
    fresh = Engine.load(path)
    assert answer.model.revision == fresh.model.revision
    right = [fresh.embed(part[-20:], np.array([len(part[-20:])])) for part in LONG]
    assert answer.embeddings.tobytes() == np.concatenate(right).tobytes()
