import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import ATTACKS, random_packed
from tritserve.model.engine.engine import Engine
from tritserve.model.packed.file import PackedFileError, parse, read, serialize
from tritserve.service.commands.describe import describe

EXPECTED = {
    "bias_nan": "query_key_value.bias' holds a value that is NaN or infinite",
    "byte_243": "query_key_value.packed': byte 0 is 243; five trits are at most 242",
    "bytes_appended": "the tensors end before or after the file does",
    "config_field_unknown": "experts: Extra inputs are not permitted",
    "config_lies_about_heads": "does not reproduce its golden vector",
    "config_lies_about_layers": "'blocks.1.attention.query_key_value.packed' is missing",
    "config_lies_about_pooling": "does not reproduce its golden vector",
    "config_lies_about_weights": "query_key_value.packed' is uint8 [10]; it must be uint8 [6]",
    "config_lies_about_width": "it must be float32 [8]",
    "config_not_json": "'config' is not a valid ModelConfig: Invalid JSON",
    "config_of_a_float_model": "a packed file is ternary or binary",
    "config_with_a_billion_layers": "num_layers: Input should be less than or equal to 256",
    "dtype_bf16": "has the type 'BF16'; only U8 and F32 occur",
    "dtype_unknown": "unknown variant `F33`",
    "dtype_wrong": "'final_norm.weight' is int32 [4]; it must be float32 [4]",
    "empty": "shorter than the 8 bytes of its header's length",
    "format_from_the_future": "'format' is 'tritserve/2'; this version reads 'tritserve/1'",
    "golden_missing": "'golden.values' is missing or not 1 to 9 timesteps long",
    "golden_nan": "'golden.values' holds a value that is NaN or infinite",
    "golden_too_long": "'golden.values' is missing or not 1 to 3 timesteps long",
    "header_length_cut": "shorter than the 8 bytes of its header's length",
    "header_length_oversized": "a header has at most 100 MB",
    "header_nested": "invalid JSON in header",
    "header_not_json": "invalid JSON in header",
    "header_not_utf8": "invalid UTF-8 in header",
    "last_byte_not_filled": "the last byte is not filled with zero trits",
    "metadata_key_missing": "metadata keys are ['config', 'format', 'name']",
    "metadata_key_unknown": "metadata keys are ['config', 'extra',",
    "metadata_missing": "'format' is None",
    "name_empty": "'name' has 0 letters; it must have 1 to 200",
    "name_too_long": "'name' has 20000 letters; it must have 1 to 200",
    "offsets_backwards": "overlap, leave a gap or run backwards",
    "scale_changed": "the golden vector cannot be computed",
    "scale_infinite": "query_key_value.scale' holds a value that is NaN or infinite",
    "scale_nan": "query_key_value.scale' holds a value that is NaN or infinite",
    "scale_zero": "query_key_value.scale' must be above zero",
    "shape_not_its_bytes": "shape and type do not match its number of bytes",
    "shape_overflows": "overflow computing buffer size",
    "shape_wrong": "'final_norm.weight' is float32 [2, 2]; it must be float32 [4]",
    "std_zero": "standardize.std must be above zero",
    "tensor_missing": "'final_norm.weight' is missing",
    "tensor_unknown": "the config has no place for them: ['extra']",
    "tensors_overlap": "overlap, leave a gap or run backwards",
    "training_nested": "'training' is not JSON",
    "training_not_an_object": "'training' is not a JSON object",
    "training_not_json": "'training' is not JSON",
    "truncated_in_header": "the file ends before its header does",
    "truncated_in_tensors": "the tensors end before or after the file does",
}


def test_every_hostile_file_is_expected():
    assert {path.stem for path in ATTACKS.glob("*.safetensors")} == {"valid", *EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_hostile_file_is_refused_with_its_own_error(name):
    with pytest.raises(PackedFileError) as caught:
        Engine.load(ATTACKS / f"{name}.safetensors")
    assert EXPECTED[name] in str(caught.value)


def test_the_file_they_were_made_from_loads():
    engine = Engine.load(ATTACKS / "valid.safetensors")
    assert engine.embed(np.zeros((3, 2), dtype=np.float32), np.array([1, 2])).shape == (2, 4)


VALID = (ATTACKS / "valid.safetensors").read_bytes()


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=8),
    st.integers(0, len(VALID)),
)
def test_damage_anywhere_is_an_error_or_a_valid_model(flips, end):
    data = bytearray(VALID)
    for at, byte in flips:
        data[at] = byte
    for damaged in (bytes(data), bytes(data[:end])):
        try:
            model = parse(damaged)
        except PackedFileError:
            continue
        assert all(np.isfinite(tensor).all() for tensor in model.tensors.values())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(PackedFileError):
        parse(data)


@pytest.mark.parametrize(("quantize", "bits"), [("ternary", 1.6), ("binary", 1.0)])
def test_figures_are_those_of_the_bytes(tmp_path, quantize, bits):
    path = tmp_path / "model"
    _, model = random_packed(path, hidden_size=40, embed_dim=3, num_layers=1, quantize=quantize)
    weights = 3 * 40 * 40 + 40 * 40 + 2 * 4 * 40 * 40
    others = 2 * 3 + 40 * 3 + 40 + 3 * 80 + 4 + (120 + 40 + 160 + 40)
    assert model.packed_weights == weights
    assert model.parameters == weights + others
    assert model.bits_per_weight == bits
    assert model.file_bytes == path.stat().st_size
    assert model.bits_per_parameter == 8 * path.stat().st_size / (weights + others)
    header_size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + header_size])
    stored = sum(
        entry["data_offsets"][1] - entry["data_offsets"][0]
        for name, entry in header.items()
        if name.endswith(".packed")
    )
    assert stored * 8 / weights == bits


def test_the_same_model_gives_the_same_bytes(tmp_path):
    revisions = {random_packed(tmp_path / str(i))[1].revision for i in range(4)}
    assert len(revisions) == 1


def test_what_was_written_is_what_is_read(tmp_path):
    _, written = random_packed(tmp_path / "m", quantize="binary")
    found = read(tmp_path / "m")
    assert found.training == {"seed": 0}
    assert found.config == written.config
    assert found.revision == written.revision
    with pytest.raises(OSError, match="No such file"):
        read(tmp_path / "none")


def test_arrays_in_column_order_are_written_in_row_order(tmp_path):
    _, model = random_packed(tmp_path / "m")
    turned = {name: np.asfortranarray(tensor) for name, tensor in model.tensors.items()}
    again = serialize(
        config=model.config,
        name=model.name,
        training=model.training,
        layers=model.layers,
        tensors=turned,
    )
    assert again == (tmp_path / "m").read_bytes()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_training_tells_is_json(number):
    size = int.from_bytes(VALID[:8], "little")
    header = json.loads(VALID[8 : 8 + size])
    header["__metadata__"]["training"] = f'{{"loss": {number}}}'
    changed = json.dumps(header).encode()
    changed += b" " * (-len(changed) % 8)
    with pytest.raises(PackedFileError, match=f"'training' is not JSON: {number} is no number"):
        parse(len(changed).to_bytes(8, "little") + changed + VALID[8 + size :])


def test_a_name_moves_no_cursor_where_it_is_shown(tmp_path):
    _, model = random_packed(tmp_path / "m", name="a\x1b[2Jé\n")
    assert describe(model).startswith("a\\x1b[2Jé\\n: ternary")
