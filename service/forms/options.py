"""The options of `POST /embed`, and what they do to embeddings."""

import csv
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from tritserve.model.config import MAX_WIDTH
from tritserve.model.sequences import FloatArray
from tritserve.model.signature import MAX_LETTERS, MAX_LISTED, FeatureError, Signature
from tritserve.service.errors import InvalidError
from tritserve.service.forms.choices import Channels, Overlong, Precision

FeatureName = Annotated[str, StringConstraints(max_length=MAX_LETTERS)]

_SMALLEST = np.finfo(np.float32).tiny


def _split_names(given: Any) -> Any:
    """Names in one text, as a row of CSV: what holds a comma stands in double quotes."""
    if not isinstance(given, str):
        return given
    try:
        return next(csv.reader([given], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"no row of CSV: {error}") from error


class Options(BaseModel):
    """How to treat overlong sequences, and how to give the embeddings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalize: bool = Field(default=False, description="Scale each embedding to unit length.")
    overlong: Overlong = Field(
        default="error",
        description="What to do with sequences longer than the model takes: refuse the request, "
        "or keep the last or first timesteps. `usage.truncated` then names the rows; npy and the "
        "Open Inference Protocol tell how many they are.",
    )
    precision: Precision = Field(
        default="float32",
        description="`int8`: each embedding times 127 over its largest magnitude, rounded; the "
        "factors come back as `scales`, for which npy has no place. `binary`: a bit for each "
        "number, set where it is above zero, eight to a byte, first number in the highest bit.",
    )
    channels: Channels = Field(
        default="joined",
        description="`apart`, of a model that sees channels one by one: keep them all, in order, "
        "each in `channel_size` numbers, where `joined` makes `output_size` numbers of however "
        "many there are.",
    )
    features: Annotated[list[FeatureName], BeforeValidator(_split_names)] = Field(
        default_factory=list,
        max_length=MAX_WIDTH,
        json_schema_extra={"minItems": 1},
        description="The names of the features, in the order in which they are sent. If that is "
        "not the model's order they are put into it; names that are not the model's are refused.",
    )

    @property
    def named(self) -> list[str] | None:
        """The features' names, none or more; None where the request has no `features`."""
        return self.features if "features" in self.model_fields_set else None


def check_features(options: Options, signature: Signature) -> None:
    """Raises InvalidError if features are named and are not the model's."""
    try:
        if options.named is not None:
            signature.order(options.named)
    except FeatureError as error:
        raise wrong_features(error) from error


def wrong_features(error: FeatureError) -> InvalidError:
    """The same complaint as an answer, with the first of the names that are at fault."""
    return InvalidError(
        str(error),
        field="features",
        missing=error.missing[:MAX_LISTED],
        unknown=error.unknown[:MAX_LISTED],
    )


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings in the precision that was asked for.

    Attributes:
        rows: `[batch, output_size]` float32, float16 or int8, or `[batch, output_size / 8]` uint8
            (rounded up) for binary.
        scales: `[batch]` float32 by which int8 rows are multiplied to get the numbers back.
    """

    rows: npt.NDArray[Any]
    scales: FloatArray | None = None


def finish(rows: FloatArray, options: Options) -> Embeddings:
    """Normalises and rounds embeddings `[batch, output_size]` as asked.

    Raises:
        InvalidError: a number is too large for float16, or an embedding is zero and cannot be
            given unit length.
    """
    if options.normalize:
        norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        if not norms.all():
            row = int(np.flatnonzero(norms == 0)[0])
            raise InvalidError(f"the embedding of sequence {row} is zero: no unit length", row=row)
        rows = (rows / norms).astype(np.float32)
    match options.precision:
        case "float32":
            return Embeddings(rows)
        case "float16":
            with np.errstate(over="ignore"):
                half = rows.astype(np.float16)
            if not np.isfinite(half).all():
                row = int(np.flatnonzero(~np.isfinite(half).all(axis=1))[0])
                raise InvalidError(
                    f"the embedding of sequence {row} is too large for float16; "
                    "ask for float32, or for normalize",
                    row=row,
                )
            return Embeddings(half)
        case "int8":
            # Not below the smallest normal number: a quotient could leave the range of int8.
            scales = np.maximum(np.abs(rows).max(axis=1) / np.float32(127), _SMALLEST)
            return Embeddings(np.rint(rows / scales[:, None]).astype(np.int8), scales)
        case "binary":
            return Embeddings(np.packbits(rows > 0, axis=1))
