"""Rows of pre-trained encoders: each run is a row and a seed, as its recipe tells.

An encoder sees nothing of a set but the level and scale of the training split's channels, without
its labels. Ternary rows are computed from the packed file by the engine, float ones by torch.
"""

import hashlib
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.rows import Case, Features, Row
from tritserve.model.engine.calibration import calibrate, channel_statistics
from tritserve.model.engine.engine import Engine
from tritserve.model.errors import UserError
from tritserve.model.network.bitnet import BitNet
from tritserve.model.packed.content import PackedModel
from tritserve.model.packed.file import parse
from tritserve.model.pretraining.pretrain import measure_rows
from tritserve.model.pretraining.prior import draw_block
from tritserve.model.pretraining.recipe import PretrainRecipe
from tritserve.model.sequences import FloatArray, Sequences
from tritserve.model.training.checkpoint import Checkpoint, load
from tritserve.model.training.export import export
from tritserve.model.training.run_folder import TENSORS
from tritserve.model.training.scores import EVALUATION_BATCH

UNIVERSAL = Row("universal", "**universal, ternary**", bits="1.6")
FLOAT = Row("universal-float", "universal, float twin", bits="32")
RANDOM = Row("universal-random", "universal, random ternary weights", bits="1.6")
# Keys of the rows of a curve begin so, and end in what their runs were given.
STEPS, WIDTH = "universal-steps-", "universal-width-"
# Runs of one row may differ in these.
_FREE = {"name", "seed", "threads"}


class RunError(UserError):
    """A run that has no place in the tables."""


def run_row(folder: Path, recipe: PretrainRecipe, models: Path) -> tuple[Row, int]:
    """The row that a run belongs to, and its seed.

    Args:
        folder: of a finished run.
        recipe: of the universal encoder.
        models: folder for its packed file.

    Raises:
        OSError: a file is missing or cannot be read.
        CheckpointError: the folder is no checkpoint, or not yet.
        RunError: the run differs from the recipe in something else than what is judged.
    """
    checkpoint = load(folder)
    own = PretrainRecipe.model_validate(checkpoint.training["recipe"])
    row = _kind(folder, own, recipe)
    if own.model.quantize == "none":
        features = partial(_through_torch, checkpoint.model)
    else:
        features = partial(_through_engine, _pack(checkpoint, models, row.key, own.seed))
    version = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    return replace(row, features=features, version=version), own.seed


def _kind(folder: Path, own: PretrainRecipe, recipe: PretrainRecipe) -> Row:
    ours, theirs = (_flat(which.model_dump(exclude=_FREE)) for which in (own, recipe))
    differ = {name for name in ours if ours[name] != theirs[name]}
    steps, width = own.schedule.steps, own.model.hidden_size
    if not differ:
        return UNIVERSAL
    if differ == {"model.quantize"} and own.model.quantize == "none":
        return FLOAT
    if differ == {"schedule.steps"}:
        return Row(f"{STEPS}{steps}", f"{steps:,} steps", bits=UNIVERSAL.bits)
    if "model.hidden_size" in differ <= {"model.hidden_size", "model.num_heads"}:
        return Row(f"{WIDTH}{width}", f"{width} wide", bits=UNIVERSAL.bits)
    raise RunError(
        f"{folder} differs from the recipe in {', '.join(sorted(differ))}; a run may have other "
        "schedule.steps, or another model.hidden_size, or 'none' as model.quantize"
    )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= inner or {f"{prefix}{name}": value}
    return flat


def random_row(recipe: PretrainRecipe) -> Row:
    """The encoder before its first step; it is told the same of channels' levels."""

    @cache
    def packed(seed: int, models: Path) -> PackedModel:
        torch.manual_seed(seed)
        encoder = BitNet(recipe.model).eval()
        measure_rows(encoder, draw_block(seed, 0, recipe.prior).astype(np.float16))
        return _pack(Checkpoint(encoder, {}, recipe.name, {}), models, RANDOM.key, seed)

    def features(case: Case) -> Features:
        return _through_engine(packed(case.seed, case.models), case)

    return replace(RANDOM, features=features, version=recipe.model_dump_json(exclude=_FREE))


def _pack(checkpoint: Checkpoint, models: Path, key: str, seed: int) -> PackedModel:
    models.mkdir(parents=True, exist_ok=True)
    path = models / f"{key}-{seed}.safetensors"
    return export(checkpoint.model, path, name=checkpoint.name, training=checkpoint.training)


def _through_engine(model: PackedModel, case: Case) -> Features:
    center, spread = channel_statistics(case.train.sequences.values)
    engine = Engine(parse(calibrate(model, center, spread)), threads=1)
    first, second = (
        engine.embed(part.sequences.values, part.sequences.lengths)
        for part in (case.train, case.test)
    )
    return first, second


@torch.inference_mode()
def _through_torch(model: BitNet, case: Case) -> Features:
    calibration = channel_statistics(case.train.sequences.values)

    def of(sequences: Sequences) -> FloatArray:
        rows = np.arange(len(sequences))
        parts = [
            sequences.select(rows[start : start + EVALUATION_BATCH])
            for start in range(0, len(rows), EVALUATION_BATCH)
        ]
        embeddings = [
            model.embed_channels(
                torch.from_numpy(part.values), torch.from_numpy(part.lengths), calibration
            )
            for part in parts
        ]
        found: FloatArray = torch.cat(embeddings).numpy()
        return found

    return of(case.train.sequences), of(case.test.sequences)
