"""An unmodified Triton client against a real server process."""

import numpy as np
import pytest

from model.data import load
from model.engine import Engine
from model.pretrained import DEFAULT_MODEL
from tests.builders import DATA
from tests.end_to_end.server import serving

httpclient = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with serving(log=tmp_path_factory.mktemp("triton") / "log") as (url, _):
        connected = httpclient.InferenceServerClient(url.removeprefix("http://"))
        yield connected
        connected.close()


def inputs(sequences, binary):
    made = []
    for name, array, datatype in [
        ("values", sequences.values, "FP32"),
        ("lengths", sequences.lengths, "INT64"),
    ]:
        made.append(httpclient.InferInput(name, list(array.shape), datatype))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return made


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_it_infers(client, binary, compression):
    sequences = load(DATA / "JapaneseVowels.npz", "test").sequences.select(np.arange(40))
    outputs = [httpclient.InferRequestedOutput("embeddings", binary_data=binary)]
    for asked in (outputs, None):
        result = client.infer(
            "japanese-vowels",
            inputs(sequences, binary),
            outputs=asked,
            request_id="7",
            request_compression_algorithm=compression,
        )
        engine = Engine.load(DEFAULT_MODEL)
        expected = engine.embed(sequences.values, sequences.lengths)
        got = result.as_numpy("embeddings").astype(np.float32)
        assert got.tobytes() == expected.tobytes()
        assert result.get_response()["id"] == "7"


def test_it_reads_metadata_and_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("japanese-vowels")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "tritserve"
    metadata = client.get_model_metadata("japanese-vowels", "1")
    assert metadata["outputs"][0]["shape"] == [-1, 64]


def test_it_is_told_what_was_wrong(client):
    sequences = load(DATA / "JapaneseVowels.npz", "test").sequences.select([0])
    sequences.values[3, 2] = np.nan
    with pytest.raises(Exception, match="sequence 0, timestep 3, feature 2 is nan"):
        client.infer("japanese-vowels", inputs(sequences, True))
