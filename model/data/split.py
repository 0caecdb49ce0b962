"""What a score needs: a part of a data set held out, and labels that can be told apart."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tritserve.model.data.dataset import DataError, Dataset, Groups, Labels

# Of so many groups, every choice is looked at; of more, so many are drawn by chance.
FEW_GROUPS = 10
TRIES = 200


def hold_out(
    data: Dataset, fraction: float, rng: np.random.Generator
) -> tuple[Dataset, Dataset | None]:
    """Splits a training set into a part to train on and a part to validate with.

    Every class keeps its share, to within one sequence, and at least one sequence to train on. Of
    a data set with groups, whole ones are held out, so that the shares are as near to those asked
    for as groups allow.

    Args:
        data: the whole training split.
        fraction: share to validate with, 0 for none.
        rng: decides which.

    Raises:
        DataError: the share is of no sequence, or no group can be held out.
    """
    if not fraction:
        return data, None
    classes = np.zeros(len(data.sequences), dtype=np.int64) if data.labels is None else data.labels
    if data.groups is None:
        validate = _choose_sequences(classes, fraction, rng)
    else:
        validate = _choose_groups(data.groups, classes, fraction, rng)
    train = np.setdiff1d(np.arange(len(classes)), validate)
    return data.select(train), data.select(validate)


def _choose_sequences(
    classes: Labels, fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    members = [rng.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)]
    most = np.array([len(rows) - 1 for rows in members])
    shares = fraction * (most + 1)
    counts = np.minimum(np.floor(shares).astype(np.int64), most)
    # What rounding down has left goes to where the most is left; where that is equal, by chance.
    order = np.lexsort((rng.random(len(members)), counts - shares))
    missing = max(0, round(fraction * len(classes)) - int(counts.sum()))
    counts[order[(counts < most)[order]][:missing]] += 1
    if not counts.any():
        raise DataError(f"a validation share of {fraction} of {len(classes)} sequences is none")
    return np.sort(
        np.concatenate([rows[:count] for rows, count in zip(members, counts, strict=True)])
    )


def _choose_groups(
    groups: Groups, classes: Labels, fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The sequences of the groups that hold out about `fraction` of each class.

    Of the choices tried, it is the one whose numbers of held-out sequences, summed over classes,
    are the least off. Each leaves something of every class to train on.
    """
    groups, classes = _numbered(groups), _numbered(classes)
    count = int(groups.max()) + 1
    if count < 2:
        raise DataError("all sequences are of one group; a validation part needs two or more")
    totals = np.bincount(classes)
    wanted = fraction * totals
    best, least = None, np.inf
    for chosen in _choices(groups, classes, wanted.sum(), rng):
        held = np.bincount(classes[chosen[groups]], minlength=len(totals))
        off = np.abs(held - wanted).sum()
        if off < least and (held < totals).all():
            best, least = chosen, off
    if best is None:
        raise DataError(
            "no group can be held out for validation: each alone has a class, which training "
            "would lack"
        )
    return np.flatnonzero(best[groups])


def _choices(
    groups: Groups, classes: Labels, wanted: float, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.bool_]]:
    """Groups to hold out, `[groups]` bool: every choice of few groups, some by chance of many.

    Of many, each leaves something of every class, and there is none only if no group can be held
    out: those that alone have a class stay, and of each other class the last in a random order.
    """
    sizes, kinds = np.bincount(groups), int(classes.max()) + 1
    count = len(sizes)
    if count <= FEW_GROUPS:
        # The order, too, is left to chance: of equals the first is taken.
        order = rng.permutation(count)
        for bits in rng.permutation(np.arange(1, 2**count - 1)):
            yield (bits >> order) % 2 == 1
        return
    group, label = np.divmod(np.unique(groups * kinds + classes), kinds)
    staying = np.unique(group[np.bincount(label)[label] == 1])
    free = np.setdiff1d(np.arange(count), staying)
    if not len(free):
        return
    for _ in range(TRIES):
        # With those that stay at its end, the first of the free ones is the last of no class.
        order = np.concatenate([rng.permutation(free), staying])
        last = np.zeros(kinds, np.int64)
        np.maximum.at(last, label, np.argsort(order)[group])
        loose = np.delete(order, last)
        held = 1 + int(np.abs(np.cumsum(sizes[loose]) - wanted).argmin())
        chosen = np.zeros(count, np.bool_)
        chosen[loose[:held]] = True
        yield chosen


def _numbered(names: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return numbers


def check_classes(labels: Labels) -> None:
    """Raises DataError if training labels `[n]` int64 are all of one class."""
    if (labels == labels[0]).all():
        raise DataError(
            f"every training label is {labels[0]}; a score needs two classes or more to tell apart"
        )


def check_labels(train: Labels, test: Labels) -> None:
    """Raises DataError unless training labels `[n]` tell test labels `[m]` apart.

    They are of two classes or more, and of each class that a test label is of.
    """
    check_classes(train)
    unknown = np.setdiff1d(test, train)
    if len(unknown):
        raise DataError(f"y_test holds the label {unknown[0]}, which y_train has not")
