import numpy as np
import pytest

from tritserve.model.data.dataset import DataError
from tritserve.model.evaluation.probe import SVM_GRID, fit_svm, linear_probe, probe


def rings(count, seed):
    """Two classes that no line separates: a disc and the ring around it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    radius = 1.0 + 2.0 * labels + 0.2 * rng.standard_normal(count)
    angle = rng.uniform(0, 2 * np.pi, count)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points.astype(np.float32), labels


def every_probe(*given):
    return dict(probe(*given))


def test_each_probe_reads_what_it_can():
    accuracies = dict(probe(*rings(200, 0), *rings(100, 1)))
    assert list(accuracies) == ["neighbour", "linear", "svm"]
    assert accuracies["svm"] > 0.97
    assert accuracies["neighbour"] > 0.97
    assert accuracies["linear"] < 0.75


def test_the_svm_searches_its_grid_only_where_there_is_enough_to_search_on():
    assert np.isinf(fit_svm(*rings(48, 0)).C)
    x, _ = rings(60, 0)
    assert np.isinf(fit_svm(x, np.arange(60) % 15).C)  # 4 a class
    noise = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    searched = fit_svm(x, rings(60, 0)[1]).C
    assert searched in SVM_GRID
    assert np.isfinite(fit_svm(noise, np.arange(50) % 2).C)


def test_the_svm_takes_at_most_so_many_rows(monkeypatch):
    monkeypatch.setattr("tritserve.model.evaluation.probe.MAX_SVM_ROWS", 60)
    x, labels = rings(80, 0)
    assert fit_svm(x, labels).shape_fit_[0] == 60


def test_the_svms_rows_are_of_each_class_its_share_and_at_least_one(monkeypatch):
    monkeypatch.setattr("tritserve.model.evaluation.probe.MAX_SVM_ROWS", 60)
    x, _ = rings(120, 0)
    labels = np.repeat([3, 1, 4, 9], [80, 30, 9, 1])
    fitted = fit_svm(x, labels)
    assert fitted.shape_fit_[0] == 40 + 15 + 4 + 1
    assert fitted.classes_.tolist() == [1, 3, 4, 9]
    assert fitted.C in SVM_GRID


@pytest.mark.parametrize("rare", [1, 4])
def test_the_svm_does_not_search_where_a_part_may_be_of_one_class(rare):
    x, _ = rings(60, 0)
    assert np.isinf(fit_svm(x, np.repeat([0, 1], [60 - rare, rare])).C)


def test_one_class_is_an_error():
    x, labels = rings(60, 0)
    for fit in (every_probe, linear_probe, lambda x, y, *_: fit_svm(x, y)):
        with pytest.raises(DataError, match="every training label is 0; a score needs two classes"):
            fit(x, np.zeros_like(labels), x, labels)


@pytest.mark.parametrize("score", [every_probe, linear_probe])
def test_a_test_label_that_training_has_not_is_an_error(score):
    x, labels = rings(60, 0)
    with pytest.raises(DataError, match=r"y_test holds the label 2, which y_train has not"):
        score(x, labels, x, labels + 1)
