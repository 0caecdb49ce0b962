"""The rows of the table: what each one's features are made of."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tritserve.model.config import Quantize
from tritserve.model.data.dataset import Dataset
from tritserve.model.engine.engine import Engine
from tritserve.model.network.bitnet import BitNet
from tritserve.model.sequences import FloatArray
from tritserve.model.training.checkpoint import Checkpoint, load, save
from tritserve.model.training.export import export
from tritserve.model.training.recipe import Recipe
from tritserve.model.training.rule import recipe_for
from tritserve.model.training.scores import embed
from tritserve.model.training.train import train


@dataclass(frozen=True)
class Case:
    """One set with one seed.

    Attributes:
        path: the set's `.npz`.
        train: its training split.
        test: its test split.
        seed: of training.
        models: folder for checkpoints and packed files.
    """

    path: Path
    train: Dataset
    test: Dataset
    seed: int
    models: Path


Features = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        key: its name in the results file.
        title: its name in the table.
        features: of the training and of the test sequences, `[n, width]` and `[m, width]`.
        accuracy: on the test split, of a row with a classifier of its own.
        chance: whether the seed changes anything.
        labels: whether what makes the features saw the training labels.
        bits: stored bits a weight, where there are weights.
        recipe: what is trained, where something is.
        version: of what makes the features, where it is not the recipe that decides them.
        prepare: makes of a set's case the one that the row is judged by.
    """

    key: str
    title: str
    features: Callable[[Case], Features] | None = None
    accuracy: Callable[[Case], float] | None = None
    chance: bool = True
    labels: bool = False
    bits: str = ""
    recipe: Callable[[Case], Recipe] | None = None
    version: str = ""
    prepare: Callable[[Case], Case] = lambda case: case

    def fingerprint(self, case: Case) -> str:
        """A short hash of the recipe and the data; another one makes a result worthless."""
        return _identity(case, self.recipe(case) if self.recipe else None, self.version)


def _identity(case: Case, recipe: Recipe | None, version: str = "") -> str:
    what = version + (recipe.model_dump_json(exclude={"dataset"}) if recipe else "")
    return hashlib.sha256((what + case.train.sha256).encode()).hexdigest()[:12]


def _recipe(
    quantize: Quantize, use_labels: bool = True, model: dict[str, Any] | None = None
) -> Callable[[Case], Recipe]:
    def make(case: Case) -> Recipe:
        ruled = recipe_for(case.path, quantize=quantize, use_labels=use_labels, seed=case.seed)
        return ruled.model_copy(update={"model": ruled.model | (model or {})})

    return make


def _trained(case: Case, recipe: Recipe, key: str) -> Checkpoint:
    """The trained model; taken from its folder when one of this recipe and data is there."""
    folder = case.models / f"{case.train.name}-{key}-{case.seed}-{_identity(case, recipe)}"
    if (folder / "checkpoint.json").exists():
        return load(folder)
    checkpoint = train(recipe)
    save(checkpoint, folder)
    return checkpoint


def _through_torch(case: Case, model: BitNet) -> Features:
    return embed(model, case.train.sequences), embed(model, case.test.sequences)


def packed_path(case: Case, key: str) -> Path:
    """Where a row's packed file is kept."""
    return case.models / f"{case.train.name}-{key}-{case.seed}.safetensors"


def _packed(case: Case, model: BitNet, key: str, training: dict[str, Any]) -> Features:
    """Features as they are served: from the packed file, by the native engine."""
    path = packed_path(case, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    export(model, path, name=case.train.name, training=training)
    engine = Engine.load(path, threads=1)
    first, second = (
        engine.embed(part.sequences.values, part.sequences.lengths)
        for part in (case.train, case.test)
    )
    return first, second


def _encoder(
    key: str,
    title: str,
    quantize: Quantize,
    *,
    use_labels: bool = True,
    model: dict[str, Any] | None = None,
) -> Row:
    recipe = _recipe(quantize, use_labels, model)

    def features(case: Case) -> Features:
        checkpoint = _trained(case, recipe(case), key)
        if quantize == "none":
            return _through_torch(case, checkpoint.model)
        return _packed(case, checkpoint.model, key, checkpoint.training)

    bits = {"none": "32", "ternary": "1.6", "binary": "1"}[quantize]
    return Row(key, title, features, labels=use_labels, bits=bits, recipe=recipe)


def _ternarised_after(case: Case) -> Features:
    checkpoint = _trained(case, _recipe("none")(case), "float")
    config = checkpoint.model.config.model_copy(update={"quantize": "ternary"})
    model = BitNet(config)
    model.load_state_dict(checkpoint.model.state_dict())
    return _packed(case, model, "after", checkpoint.training)


def _random(case: Case) -> Features:
    checkpoint = train(_without_training(_recipe("ternary")(case)))
    return _packed(case, checkpoint.model, "random", checkpoint.training)


def _without_training(recipe: Recipe) -> Recipe:
    """The recipe with one step at a rate too small to change a float32."""
    schedule = recipe.schedule.model_copy(update={"steps": 1, "learning_rate": 1e-30})
    return recipe.model_copy(update={"schedule": schedule})


def _last(case: Case) -> Features:
    return _standardized(
        *(np.stack([s[-1] for s in part.sequences.split()]) for part in (case.train, case.test))
    )


def _summary(case: Case) -> Features:
    def one(x: FloatArray) -> FloatArray:
        parts = [x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1]]
        joined: FloatArray = np.concatenate(parts).astype(np.float32)
        return joined

    return _standardized(
        *(np.stack([one(s) for s in part.sequences.split()]) for part in (case.train, case.test))
    )


# MiniRocket's kernels are 9 timesteps long.
_SHORTEST = 9


def _minirocket(case: Case) -> float:
    """MiniRocket (Dempster et al. 2021, arXiv 2012.08791) as aeon has it.

    It takes sequences of one length only; shorter ones repeat their last timestep.
    """
    from aeon.classification.convolution_based import MiniRocketClassifier  # noqa: PLC0415

    parts = case.train, case.test
    longest = max(_SHORTEST, *(int(part.sequences.lengths.max()) for part in parts))
    train_x, test_x = (
        np.stack(
            [
                np.pad(s, ((0, longest - len(s)), (0, 0)), mode="edge").T
                for s in part.sequences.split()
            ]
        )
        for part in parts
    )
    classifier = MiniRocketClassifier(random_state=case.seed)
    classifier.fit(train_x, case.train.labels)
    return float(classifier.score(test_x, case.test.labels))


def _standardized(first: FloatArray, second: FloatArray) -> Features:
    """Features of mixed units, each over its deviation: the SVM would see only the largest."""
    mean, std = first.mean(0), first.std(0)
    std = np.where(std > 0, std, 1)
    return (first - mean) / std, (second - mean) / std


# The block of b1.58: SwiGLU at two thirds of the inner width has as many weights.
_B158 = {"norm": "rmsnorm", "ffn": "swiglu", "ffn_size": 172, "bias": False}
_SEED = {"sub_norm": False, "positions": "none", "pooling": "last", "differences": 0}

ROWS = [
    Row("last", "raw last timestep", _last, chance=False),
    Row("summary", "summary statistics", _summary, chance=False),
    _encoder("float", "float twin", "none"),
    _encoder("ternary", "**ternary**", "ternary"),
    _encoder("binary", "**binary**", "binary"),
    Row(
        "after",
        "float twin, ternarised after training",
        _ternarised_after,
        labels=True,
        bits="1.6",
        recipe=_recipe("none"),
    ),
    Row("random", "random ternary weights", _random, bits="1.6", recipe=_recipe("ternary")),
    _encoder("float-alone", "float, self-supervised", "none", use_labels=False),
    _encoder("ternary-alone", "**ternary, self-supervised**", "ternary", use_labels=False),
    _encoder("b158", "ternary, block of b1.58", "ternary", model=_B158),
    _encoder("seed", "ternary, the seed's block", "ternary", model=_SEED),
    Row("minirocket", "MiniRocket, its ridge classifier", accuracy=_minirocket, labels=True),
]
