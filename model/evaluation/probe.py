"""How much simple classifiers read from frozen embeddings.

The protocol is that of TS2Vec (Yue et al. 2022, arXiv 2106.10466; `fit_svm`, `fit_lr` and
`fit_knn` of `tasks/_eval_protocols.py` in its repository), so that accuracies compare with its
published ones:

    svm        RBF kernel, gamma 1 / (width * variance), C from 1e-4 ... 1e4 and infinity by 5-fold
               cross-validation on the training embeddings; infinity without a search below 50
               sequences, 5 a class or 5 outside the largest class; of 10,000 training
               embeddings at most, but one of each class
    linear     logistic regression on standardised features
    neighbour  the class of the nearest training embedding, standardised features, Euclidean

No probe sees anything but the training embeddings before it is scored. Unlike in TS2Vec, the
logistic regression is multinomial, not one against the rest, and the SVM's search asks for 5
outside the largest class, so that no part to fit on is of one class alone.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tritserve.model.data.dataset import Labels
from tritserve.model.data.split import check_classes, check_labels
from tritserve.model.sequences import FloatArray

SVM_GRID = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, np.inf]
MAX_SVM_ROWS = 10_000
_FOLDS = 5
_MIN_SEARCH_ROWS = 50
# Classes that overlap have no solution at infinite C; the solver stops here (TS2Vec's at 1e7).
_MAX_ITERATIONS = 1_000_000


def probe(
    train: FloatArray, train_labels: Labels, test: FloatArray, test_labels: Labels
) -> Iterator[tuple[str, float]]:
    """Fits the three probes on `train` and scores them on `test`, the cheapest first.

    Args:
        train: `[n, width]` float32 embeddings.
        train_labels: `[n]` int64, of two classes or more.
        test: `[m, width]` float32.
        test_labels: `[m]` int64.

    Yields:
        A probe's name, and the share of test sequences that it classifies rightly, 0 to 1.

    Raises:
        DataError: the training labels are all of one class, or lack one of the test's.
        ValueError: a value is not finite.
    """
    check_labels(train_labels, test_labels)
    yield "neighbour", neighbour_probe(train, train_labels, test, test_labels)
    yield "linear", linear_probe(train, train_labels, test, test_labels)
    yield "svm", float(fit_svm(train, train_labels).score(test, test_labels))


def neighbour_probe(
    train: FloatArray, train_labels: Labels, test: FloatArray, test_labels: Labels
) -> float:
    """Accuracy on `test` of the label of the nearest row of `train`, features standardised.

    Args:
        train: `[n, width]` float32.
        train_labels: `[n]` int64.
        test: `[m, width]` float32.
        test_labels: `[m]` int64.

    Raises:
        ValueError: a value is not finite.
    """
    neighbour = make_pipeline(StandardScaler(), KNeighborsClassifier(n_neighbors=1))
    return float(neighbour.fit(train, train_labels).score(test, test_labels))


def fit_svm(train: FloatArray, labels: Labels) -> SVC:
    """The RBF SVM of the protocol above, fitted.

    Args:
        train: `[n, width]` float32.
        labels: `[n]` int64.

    Raises:
        DataError: the labels are all of one class.
        ValueError: a value is not finite.
    """
    check_classes(labels)
    svm = SVC(C=np.inf, gamma="scale", max_iter=_MAX_ITERATIONS)
    if len(train) > MAX_SVM_ROWS:
        rows = _sample(labels, MAX_SVM_ROWS)
        train, labels = train[rows], labels[rows]
    counts = np.unique(labels, return_counts=True)[1]
    outside_largest = len(train) - counts.max()
    if min(counts.mean(), outside_largest) < _FOLDS or len(train) < _MIN_SEARCH_ROWS:
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            return svm.fit(train, labels)
    # Of solutions that are not there, and of classes with fewer rows than folds.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return GridSearchCV(svm, {"C": SVM_GRID}, cv=_FOLDS).fit(train, labels).best_estimator_


def _sample(labels: Labels, most: int) -> npt.NDArray[np.int64]:
    """About `most` rows chosen by chance: of each class its share, but at least one."""
    rng = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen.append(rng.choice(rows, max(1, len(rows) * most // len(labels)), replace=False))
    return np.concatenate(chosen)


def linear_probe(
    train: FloatArray, train_labels: Labels, test: FloatArray, test_labels: Labels
) -> float:
    """Accuracy on `test` of a logistic regression fitted on `train`, features standardised.

    Args:
        train: `[n, width]` float32.
        train_labels: `[n]` int64.
        test: `[m, width]` float32.
        test_labels: `[m]` int64.

    Raises:
        DataError: the training labels are all of one class, or lack one of the test's.
        ValueError: a value is not finite.
    """
    check_labels(train_labels, test_labels)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    classifier.fit(train, train_labels)
    return float(classifier.score(test, test_labels))
