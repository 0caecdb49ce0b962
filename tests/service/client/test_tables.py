"""Tables, whose columns have names, through the client."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.builders import random_batch, random_bitnet
from tests.service.client.test_client import Seen, against_app
from tritserve import RequestError, SequenceError
from tritserve.model.engine.engine import Engine
from tritserve.model.signature import Signature
from tritserve.model.training.export import export

NAMES = ["acc x", "acc, y", "Größe"]
PARTS = random_batch([1, 9, 4], 3).split()
KINDS = [pd.DataFrame, pl.DataFrame, pa.table]


def write(path, names, embed_dim=3):
    model = random_bitnet(embed_dim=embed_dim, window_size=9)
    export(model, path, name="m", training={}, signature=Signature(feature_names=names))
    return Engine.load(path)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return write(tmp_path_factory.mktemp("named") / "m", NAMES)


@pytest.fixture(scope="module")
def nameless(tmp_path_factory):
    return write(tmp_path_factory.mktemp("nameless") / "m", [])


def tables(order, kind=pd.DataFrame):
    return [kind({NAMES[i]: part[:, i] for i in order}) for part in PARTS]


def embedded(engine, sequences, **options):
    """What a client gives for sequences, and the paths that it asks."""
    seen = Seen()

    async def talk(client):
        return await client.embed(sequences, **options)

    return against_app(engine, talk, seen).tobytes(), seen.paths


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_put_into_the_models_order_by_their_names(named, kind):
    expected, paths = embedded(named, PARTS)
    assert paths == ["/embed"]
    assert embedded(named, tables([2, 0, 1], kind))[0] == expected
    assert embedded(named, iter(tables([0, 1, 2], kind)))[0] == expected
    mixed = tables([2, 0, 1], kind)[:1] + tables([1, 2, 0], kind)[1:]
    assert embedded(named, mixed)[0] == expected


def test_names_beside_tables_that_have_them_too_must_be_theirs(named):
    expected, _ = embedded(named, PARTS)
    turned = [NAMES[i] for i in (2, 0, 1)]
    assert embedded(named, tables([2, 0, 1]), features=turned)[0] == expected
    for features in (NAMES, ["a", "b", "c"], turned[:2], []):
        with pytest.raises(SequenceError, match=r"features are .*, the columns of sequence 0 are"):
            embedded(named, tables([2, 0, 1]), features=features)


def test_columns_that_are_not_the_models_are_refused(named):
    others = [table.rename(columns={"Größe": "size"}) for table in tables([0, 1, 2])]
    with pytest.raises(RequestError, match="missing 'Größe'; unknown 'size'"):
        embedded(named, others)
    with pytest.raises(
        SequenceError,
        match=r"sequence 1 has other columns .*: missing .'Größe'., unknown .'size'.",
    ):
        embedded(named, [tables([0, 1, 2])[0], others[1]])


def test_tables_among_arrays_are_refused_unless_all_columns_are_named(named):
    mixed = [PARTS[0], *tables([0, 1, 2])[1:]]
    with pytest.raises(SequenceError, match="sequence 1 names its columns, sequence 0 does not"):
        embedded(named, mixed)
    assert embedded(named, mixed, features=NAMES)[0] == embedded(named, PARTS)[0]


def test_a_model_without_names_takes_columns_as_they_stand(nameless):
    expected, _ = embedded(nameless, PARTS)
    assert embedded(nameless, tables([0, 1, 2])) == (expected, ["/info", "/embed"])


def test_no_names_are_a_wrong_number_of_names(named, nameless):
    with pytest.raises(RequestError, match="422 invalid: the features are not the model's"):
        embedded(named, PARTS, features=[])
    with pytest.raises(RequestError, match="422 invalid: the model does not know the names"):
        embedded(nameless, PARTS, features=[])


@pytest.mark.parametrize(("before", "after"), [([], NAMES), (NAMES, []), (NAMES, NAMES[::-1])])
def test_names_are_sent_to_the_model_that_answers(tmp_path, before, after):
    """Though the client has learned of the one before it."""
    write(tmp_path / "m", before)

    async def reload(app, request):
        if request.url.path == "/embed" and not tmp_path.joinpath("reloaded").exists():
            tmp_path.joinpath("reloaded").touch()
            write(tmp_path / "m", after)
            await app.state.service.reload()

    async def talk(client):
        await client.info()
        return await client.embed(tables([2, 1, 0]))

    rows = against_app(Engine.load(tmp_path / "m"), talk, reload, model=tmp_path / "m")
    order = [NAMES.index(name) for name in after] or [2, 1, 0]
    turned = [np.ascontiguousarray(part[:, order]) for part in PARTS]
    assert rows.tobytes() == embedded(Engine.load(tmp_path / "m"), turned)[0]


def test_the_names_of_a_wide_model_fit(tmp_path):
    """As no query string holds them; and their bytes count among those of each part."""
    names = [f'"sensor" {i} of the {"long " * 5}hall' for i in range(1_500)]
    engine = write(tmp_path / "m", names, embed_dim=1_500)
    values = random_batch([2] * 20, 1_500).split()
    turned = [pd.DataFrame(part, columns=names)[names[::-1]] for part in values]
    expected, _ = embedded(engine, values)
    assert embedded(engine, turned)[0] == expected
    seen = Seen()

    async def talk(client):
        await client.info()
        return await client.embed(turned)

    assert against_app(engine, talk, seen, max_body_bytes=200_000).tobytes() == expected
    assert len(seen.paths) > 3
    assert seen.paths.count("/info") == 1
