"""Time first or channels first: said, or asked about."""

import warnings

import numpy as np
import pytest

from tritserve.model.data.dataset import DataError, load
from tritserve.model.data.writing import write
from tritserve.model.errors import DataWarning

# 20 sequences of 6 channels and 100 timesteps, as aeon, sktime and torch have them.
CHANNELS_FIRST = np.random.default_rng(0).standard_normal((20, 6, 100)).astype(np.float32)


def test_channels_first_is_warned_about_and_can_be_said(tmp_path):
    path = tmp_path / "x.npz"
    message = r"every sequence of the train split has 6 timesteps of 100 features; transposed\?"
    with pytest.warns(DataWarning, match=message):
        write(path, CHANNELS_FIRST)
    write(path, CHANNELS_FIRST, layout="channels_first")
    data = load(path, "train").sequences
    assert data.lengths.tolist() == [100] * 20
    np.testing.assert_array_equal(data.split()[3], CHANNELS_FIRST[3].T)


@pytest.mark.parametrize(
    "sequences",
    [
        CHANNELS_FIRST.transpose(0, 2, 1),
        [np.ones((2, 9)), np.ones((3, 9))],
        np.ones((5, 29, 64)),
    ],
    ids=["time first", "lengths differ", "twice as wide as long"],
)
@pytest.mark.filterwarnings("error")
def test_what_is_not_doubtful_is_not_warned_about(tmp_path, sequences):
    write(tmp_path / "x.npz", sequences)


def test_who_says_time_first_is_not_asked_again(tmp_path):
    with warnings.catch_warnings(action="error"):
        write(tmp_path / "x.npz", CHANNELS_FIRST, layout="time_first")
    assert load(tmp_path / "x.npz", "train").sequences.values.shape == (120, 100)


def test_unequal_widths_whose_transposed_shapes_fit_are_asked_about(tmp_path):
    message = r"train: sequence 1 has 9 features .* all have 6 timesteps: transposed\?"
    with pytest.raises(DataError, match=message):
        write(tmp_path / "x.npz", [np.ones((6, 8)), np.ones((6, 9))])


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(
        DataError, match="layout is 'NCHW'; it must be time_first or channels_first"
    ):
        write(tmp_path / "x.npz", CHANNELS_FIRST, layout="NCHW")
