"""How much a linear classifier reads from frozen embeddings."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from model.data import Labels
from model.sequences import FloatArray


def linear_probe(
    train: FloatArray, train_labels: Labels, test: FloatArray, test_labels: Labels
) -> float:
    """Accuracy on `test` of a logistic regression fitted on `train`, features standardised.

    Args:
        train: `[n, hidden_size]` float32.
        train_labels: `[n]` int64.
        test: `[m, hidden_size]` float32.
        test_labels: `[m]` int64.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    probe.fit(train, train_labels)
    return float(probe.score(test, test_labels))
