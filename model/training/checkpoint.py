"""A trained model on disk: a folder of `model.safetensors` and `checkpoint.json`.

The tensors are the encoder's latent float32 weights (`encoder.*`), the training heads (`heads.*`)
and, where channels are calibrated, their center and spread (`calibration.*`). The JSON holds the
recipe, the data set's hash, the scores and the versions: all that is needed to train the same model
again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from tritserve.model.config import MAX_NAME, ModelConfig
from tritserve.model.errors import UserError, explain
from tritserve.model.network.bitnet import BitNet
from tritserve.model.replace import replace_file
from tritserve.model.signature import NO_SIGNATURE, Signature
from tritserve.model.training.run_folder import DESCRIPTION, TENSORS, files_of_run


class CheckpointError(UserError):
    """A folder that is not a checkpoint."""


class _Description(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
    model: ModelConfig
    training: dict[str, Any]
    signature: Signature = NO_SIGNATURE


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained encoder.

    Attributes:
        model: the encoder.
        heads: state of the training heads, by name.
        name: what a service calls the model.
        training: recipe, data set, scores and versions; anything JSON can hold.
        signature: what features and labels mean, as far as that is known.
    """

    model: BitNet
    heads: dict[str, Tensor]
    name: str
    training: dict[str, Any]
    signature: Signature = NO_SIGNATURE


def save(checkpoint: Checkpoint, folder: Path | str) -> None:
    """Writes a checkpoint into `folder`, which is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"encoder.{k}": v.contiguous() for k, v in checkpoint.model.state_dict().items()}
    tensors |= {f"heads.{k}": v.contiguous() for k, v in checkpoint.heads.items()}
    if checkpoint.model.calibration:
        center, spread = map(torch.from_numpy, checkpoint.model.calibration)
        tensors |= {"calibration.center": center, "calibration.spread": spread}
    replace_file(folder / TENSORS, safetensors.torch.save(tensors))
    description = {
        "name": checkpoint.name,
        "model": checkpoint.model.config.model_dump(),
        "training": checkpoint.training,
    }
    if known := checkpoint.signature.known():
        description["signature"] = known
    text = json.dumps(description, indent=2, allow_nan=False) + "\n"
    replace_file(folder / DESCRIPTION, text.encode())


def load(folder: Path | str) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        OSError: a file is missing or cannot be read.
        CheckpointError: the files are not a checkpoint, not yet, or do not fit each other.
    """
    folder = Path(folder)
    there = files_of_run(folder)
    if there and DESCRIPTION not in there:
        raise CheckpointError(
            f"{folder} holds a run that is not finished; the command that began it goes on with "
            "it, given --resume"
        )
    description = (folder / DESCRIPTION).read_bytes()
    try:
        content = _Description.model_validate_json(description)
        model = BitNet(content.model)
        tensors = safetensors.torch.load_file(folder / TENSORS)
        model.load_state_dict(_under("encoder.", tensors))
        if calibration := _under("calibration.", tensors):
            model.calibration = calibration["center"].numpy(), calibration["spread"].numpy()
        return Checkpoint(
            model=model,
            heads=_under("heads.", tensors),
            name=content.name,
            training=content.training,
            signature=content.signature,
        )
    except ValidationError as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: {explain(error)}") from error
    except (ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
