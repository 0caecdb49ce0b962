"""Names of features and classes: what may be one, and columns held to them."""

import json

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from tests.builders import random_bitnet
from tritserve.model.data.dataset import DataError, load
from tritserve.model.data.writing import write
from tritserve.model.packed.file import PackedFileError, parse, read
from tritserve.model.signature import FeatureError, Signature
from tritserve.model.training.checkpoint import load as load_checkpoint
from tritserve.model.training.checkpoint import save
from tritserve.model.training.export import export
from tritserve.model.training.recipe import Recipe, Schedule
from tritserve.model.training.train import train

FEATURES = ["acc x", "acc, y", "Größe"]
UNITS = ["m/s2", "m/s2", ""]


def written(path, **changed):
    values = np.random.default_rng(0).standard_normal((8, 5, 3))
    meaning = {"feature_names": FEATURES, "units": UNITS, "sampling_rate": 50}
    write(path, values, ["on", "off"] * 4, **meaning | changed)
    return path


def test_names_travel_from_the_data_into_the_packed_file(tmp_path):
    data = written(tmp_path / "d.npz")
    expected = Signature(
        feature_names=FEATURES, units=UNITS, sampling_rate=50.0, classes=["off", "on"]
    )
    assert load(data, "train").signature == expected
    recipe = Recipe(
        name="m",
        dataset=data,
        model={"hidden_size": 16, "num_layers": 1},
        schedule=Schedule(steps=2),
    )
    save(train(recipe), tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.signature == expected
    packed = tmp_path / "m.safetensors"
    export(checkpoint.model, packed, name="m", training={}, signature=checkpoint.signature)
    assert read(packed).signature == expected


def test_what_is_not_known_takes_no_place(tmp_path):
    write(tmp_path / "d.npz", np.ones((3, 5, 2)))
    with np.load(tmp_path / "d.npz") as arrays:
        assert sorted(arrays) == ["train_lengths", "train_values"]
    export(random_bitnet(), tmp_path / "m", name="m", training={})
    content = (tmp_path / "m").read_bytes()
    assert b"signature" not in content[: int.from_bytes(content[:8], "little")]
    assert read(tmp_path / "m").signature == Signature()


def test_names_of_columns_are_taken_and_kept_in_order(tmp_path):
    table = pd.DataFrame({"b": [1.0, 2.0], "a": [3.0, 4.0]})
    write(tmp_path / "d.npz", [table, table[["a", "b"]]], test=[table[["a", "b"]]])
    for split in ("train", "test"):
        data = load(tmp_path / "d.npz", split)
        assert data.signature.feature_names == ("b", "a")
        assert data.sequences.split()[-1].tolist() == [[1, 3], [2, 4]]
    with pytest.raises(DataError, match=r"train: .*: missing \['c'\], unknown \['a'\]"):
        write(tmp_path / "d.npz", [table], feature_names=["b", "c"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feature_names": ["a", "b"]}, "there are 2 feature names and 3 units"),
        ({"feature_names": ["a", "b"], "units": None}, "are 2 feature names, and 3 features"),
        ({"feature_names": ["a", "b", "a"]}, "the feature 'a' is named twice"),
        (
            {"feature_names": ["a", "b", "\x1b[2J"]},
            r"feature_names\.2: .* letters that can be seen",
        ),
        ({"feature_names": ["a", "b", "c\n"]}, r"feature_names\.2: .* letters that can be seen"),
        ({"feature_names": ["a", "b", " c"]}, "no space at either end"),
        ({"feature_names": ["a", "b", ""]}, r"feature_names\.2: .* at least 1 character"),
        ({"feature_names": ["a", "b", "c" * 101]}, r"feature_names\.2: .* at most 100 characters"),
        ({"feature_names": ["a", "b", 3]}, r"feature_names\.2: .* valid string"),
        ({"units": ["g"]}, "there are 3 feature names and 1 units"),
        ({"sampling_rate": float("nan")}, "sampling_rate: Input should be a finite number"),
        ({"sampling_rate": 0}, "sampling_rate: Input should be greater than 0"),
        ({"sampling_rate": "50 Hz"}, "sampling_rate: Input should be a valid number"),
    ],
)
def test_names_that_cannot_be_used_are_an_error_that_says_so(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        written(tmp_path / "d.npz", **changed)
    assert not (tmp_path / "d.npz").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"feature_names": np.array(["a"])}, "there are 1 feature names, and 2 features"),
        ({"feature_names": np.array([1, 2])}, r"feature_names\.0: .* valid string"),
        ({"feature_names": np.array("ab")}, "feature_names: Input should be a valid tuple"),
        ({"sampling_rate": np.array([50.0, 60.0])}, "sampling_rate: .* valid number"),
        ({"classes": np.array(["a"])}, "label 1, 'classes' has names for 1"),
        ({"classes": np.array(["a", "a"])}, "the class 'a' is named twice"),
    ],
)
def test_a_file_with_names_that_do_not_fit_is_refused(tmp_path, arrays, message):
    base = {"train_values": np.ones((6, 2)), "train_lengths": [3, 3], "y_train": [0, 1]}
    np.savez(tmp_path / "d.npz", **base | arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "d.npz", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"feature_names": ["a"]}', "does not fit the config: there are 1 feature names, and 5"),
        ('{"feature_names": "abcde"}', "is not valid: feature_names: "),
        ('{"feature_names": ["a", "b", "c", "d", "\\ud800"]}', "is not valid: "),
        ('{"classes": ["a\\u001b"]}', r"is not valid: classes\.0: .* letters that can be seen"),
        ('{"sampling_rate": NaN}', "is not valid: "),
        ('{"sampling_rate": 1e999}', "is not valid: "),
        ('{"colour": "red"}', "is not valid: colour: Extra inputs"),
        ("[" * 100_000, "is not valid: "),
        ("[]", "is not valid: "),
    ],
)
def test_a_packed_file_with_a_hostile_signature_is_refused(tmp_path, text, message):
    export(random_bitnet(), tmp_path / "m", name="m", training={})
    data = (tmp_path / "m").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"]["signature"] = text
    changed = json.dumps(header).encode()
    with pytest.raises(PackedFileError, match=f"metadata 'signature' {message}"):
        parse(len(changed).to_bytes(8, "little") + changed + data[start:])


def test_columns_are_put_into_order_or_refused():
    signature = Signature(feature_names=["a", "b", "c"])
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert signature.arrange(values, ["a", "b", "c"]) is values
    turned = signature.arrange(values, ["c", "a", "b"])
    assert turned.tolist() == [[1, 2, 0], [4, 5, 3]]
    assert turned.flags.c_contiguous
    with pytest.raises(FeatureError, match="missing 'b', 'c'; unknown 'x', 'y'") as wrong:
        signature.arrange(values, ["y", "a", "x"])
    assert (wrong.value.missing, wrong.value.unknown) == (["b", "c"], ["x", "y"])
    with pytest.raises(FeatureError, match="the feature 'a' is named twice"):
        signature.arrange(values, ["a", "a", "b"])
    with pytest.raises(FeatureError, match="does not know the names of its features"):
        Signature().arrange(values, ["a", "b", "c"])
    with pytest.raises(FeatureError, match="3 features are named, values have 2"):
        signature.arrange(values[:, :2], ["c", "b", "a"])


def test_messages_about_many_long_names_stay_short():
    signature = Signature(feature_names=[f"f{i}" for i in range(1000)])
    with pytest.raises(FeatureError) as wrong:
        signature.order(["x" * 10_000 + str(i) for i in range(1000)])
    assert len(str(wrong.value)) < 2000
    assert "and 990 more" in str(wrong.value)


def test_nothing_is_named_by_what_cannot_be_a_name():
    with pytest.raises(ValidationError, match="units"):
        Signature(units=["m\x00"])
