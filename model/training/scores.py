"""How well embeddings tell the labels of sequences that were not trained on."""

import numpy as np
import torch

from tritserve.model.data.dataset import Dataset
from tritserve.model.evaluation.probe import linear_probe, neighbour_probe
from tritserve.model.network.bitnet import BitNet
from tritserve.model.sequences import FloatArray, Sequences

# At once, sequences, or channels of those that are seen one by one.
EVALUATION_BATCH = 256
# The curve costs little: so many points, each of so many sequences of either part at most.
CURVE_POINTS = 16
CURVE_SEQUENCES = 256


def embed(model: BitNet, sequences: Sequences) -> FloatArray:
    """Embeddings `[n, output_size]` float32 from the torch model, in evaluation mode."""
    each = sequences.values.shape[1] if model.config.channels else 1
    batch = max(1, EVALUATION_BATCH // each)
    parts = [
        sequences.select(np.arange(start, min(start + batch, len(sequences))))
        for start in range(0, len(sequences), batch)
    ]
    model.eval()
    with torch.inference_mode():
        embeddings = [
            model(torch.from_numpy(part.values), torch.from_numpy(part.lengths)) for part in parts
        ]
    result: FloatArray = torch.cat(embeddings).numpy()
    return result


def score(model: BitNet, data: Dataset, scored: dict[str, Dataset]) -> dict[str, float]:
    """Accuracy, on each other part, of a linear probe fitted on the training part.

    Args:
        model: the trained encoder.
        data: what it was trained on; with labels, where there is anything to score.
        scored: the other parts, with labels, by name.

    Returns:
        By `<part>_probe_accuracy`, 0 to 1.
    """
    if not scored:
        return {}
    assert data.labels is not None
    embeddings = embed(model, data.sequences)
    scores = {}
    for part, other in scored.items():
        assert other.labels is not None
        found = embed(model, other.sequences)
        accuracy = linear_probe(embeddings, data.labels, found, other.labels)
        scores[f"{part}_probe_accuracy"] = accuracy
    return scores


class ValidationCurve:
    """Now and then in training: in how far the nearest embedding tells a held-out label.

    Measuring leaves no trace: it draws no random numbers and changes no weight.

    Args:
        data: what is trained on, with labels.
        validation: what is held out, with labels.
        steps: of the whole training.
    """

    def __init__(self, data: Dataset, validation: Dataset, steps: int) -> None:
        self._parts = [_sample(part, CURVE_SEQUENCES) for part in (data, validation)]
        self._every = max(1, steps // CURVE_POINTS)

    def measure(self, model: BitNet, step: int) -> float | None:
        """Accuracy, 0 to 1, after so many steps; None at most of them. The mode is as it was."""
        if step % self._every:
            return None
        was_training = model.training
        train, validation = (embed(model, part.sequences) for part in self._parts)
        model.train(was_training)
        labels, held_out = (part.labels for part in self._parts)
        assert labels is not None and held_out is not None
        return neighbour_probe(train, labels, validation, held_out)


def _sample(data: Dataset, most: int) -> Dataset:
    """Of many sequences some, evenly spaced."""
    count = len(data.sequences)
    return data.select(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
