"""What the numbers of a data set and of a model mean: the names that travel with them.

Every field may be missing. They go from a data set into the checkpoint that is trained on it, into
the packed file and to `GET /info`, and a batch that names its columns is held to them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tritserve.model.config import MAX_WIDTH
from tritserve.model.errors import UserError
from tritserve.model.sequences import FloatArray
from tritserve.model.text import printable

# Letters of a name, of a unit and of a class.
MAX_LETTERS = 100
MAX_CLASSES = 1_000_000
# Names that a message lists.
MAX_LISTED = 10


class FeatureError(UserError):
    """Columns that are not the model's.

    Attributes:
        missing: names that the model has and the columns have not.
        unknown: names that the columns have and the model has not.
    """

    def __init__(
        self, message: str, missing: Sequence[str] = (), unknown: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.missing = list(missing)
        self.unknown = list(unknown)


def _check_text(text: str) -> str:
    if text != printable(text) or text != text.strip():
        raise ValueError("a name has only letters that can be seen, and no space at either end")
    return text


Text = Annotated[str, Field(max_length=MAX_LETTERS), AfterValidator(_check_text)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_LETTERS), AfterValidator(_check_text)]


class Signature(BaseModel):
    """The meaning of a model's inputs and labels, as far as it is known.

    Raises:
        pydantic.ValidationError: a text is too long or cannot be printed, a name is there twice,
            or units and names differ in number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    feature_names: Annotated[tuple[Name, ...], Field(strict=False, max_length=MAX_WIDTH)] = ()
    """One a feature, in order; or none."""
    units: Annotated[tuple[Text, ...], Field(strict=False, max_length=MAX_WIDTH)] = ()
    """One a feature, empty where it has none; or none at all."""
    sampling_rate: float | None = Field(default=None, gt=0.0)
    """Timesteps a second, in Hz."""
    classes: Annotated[tuple[Text, ...], Field(strict=False, max_length=MAX_CLASSES)] = ()
    """Names of the labels 0, 1, 2 and so on; or none."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        for what, names in (("feature", self.feature_names), ("class", self.classes)):
            if len(set(names)) < len(names):
                raise ValueError(f"the {what} {_most_frequent(names)!r} is named twice")
        if self.feature_names and self.units and len(self.feature_names) != len(self.units):
            raise ValueError(
                f"there are {len(self.feature_names)} feature names and {len(self.units)} units"
            )
        return self

    def check_width(self, embed_dim: int | None) -> None:
        """Raises FeatureError unless names and units, where known, are of so many features."""
        if embed_dim is None:
            return
        for what, named in (("feature names", self.feature_names), ("units", self.units)):
            if named and len(named) != embed_dim:
                raise FeatureError(f"there are {len(named)} {what}, and {embed_dim} features")

    def known(self) -> dict[str, object]:
        """The fields that are known, as JSON has them."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def arrange(self, values: FloatArray, names: Sequence[str]) -> FloatArray:
        """Columns put into the order of the features; as they are where that is their order.

        Args:
            values: `[timesteps, columns]` float32.
            names: of the columns.

        Raises:
            FeatureError: the names are not one a column, not those of the features, or the
                features have none.
        """
        order = self.order(names)
        if len(names) != values.shape[1]:
            raise FeatureError(f"{len(names)} features are named, values have {values.shape[1]}")
        return values if order is None else np.ascontiguousarray(values[:, order])

    def order(self, names: Sequence[str]) -> npt.NDArray[np.int64] | None:
        """Where in columns of these names each feature is; None if they are in order.

        Raises:
            FeatureError: the names are not those of the features, or the features have none.
        """
        ours = self.feature_names
        if not ours:
            raise FeatureError(
                "the model does not know the names of its features; leave names out, and send "
                "the columns in the order of the training data"
            )
        if tuple(names) == ours:
            return None
        position = {name: column for column, name in enumerate(names)}
        if len(position) < len(names):
            raise FeatureError(f"the feature {listed([_most_frequent(names)])} is named twice")
        missing = [name for name in ours if name not in position]
        unknown = sorted(position.keys() - set(ours))
        if missing or unknown:
            parts = [
                f"{what} {listed(found)}"
                for what, found in (("missing", missing), ("unknown", unknown))
                if found
            ]
            raise FeatureError(
                f"the features are not the model's: {'; '.join(parts)}", missing, unknown
            )
        return np.array([position[name] for name in ours])


NO_SIGNATURE = Signature()
"""Of which nothing is known."""


def _most_frequent(names: Sequence[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def listed(names: Sequence[str]) -> str:
    """Names as an error shows them: quoted, cut where they are long, only the first of many."""
    shown = [
        repr(name if len(name) <= MAX_LETTERS else name[:MAX_LETTERS] + "...") for name in names
    ]
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(shown[:MAX_LISTED]) + more
