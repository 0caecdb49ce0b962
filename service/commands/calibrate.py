"""`tritserve calibrate`."""

from pathlib import Path

import click

from tritserve.model.data.dataset import load
from tritserve.model.engine.calibration import calibrate as calibrated
from tritserve.model.engine.calibration import channel_statistics
from tritserve.model.packed.file import parse, read
from tritserve.model.replace import replace_file
from tritserve.service.commands.arguments import file_argument
from tritserve.service.commands.files import FileError


@click.command()
@click.argument("model", type=file_argument)
@click.argument("dataset", type=file_argument)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def calibrate(model: Path, dataset: Path, out: Path) -> None:
    """Tells a packed MODEL the level and scale of a DATASET's channels, and writes it to OUT.

    Of a model that sees channels one by one, without training: the mean and the deviation of each
    channel of the training split are stored in the packed file. So are the channels' names, their
    units and the sampling rate, where the data set has them: requests and files that name their
    columns are held to them from then on. NaN is a value that is missing, and counts for nothing.
    """
    if out.exists() and out.samefile(dataset):
        raise FileError(f"{out} is the data set; write the model to another file")
    packed = read(model)
    data = load(dataset, "train", missing=packed.config.channels is not None)
    center, spread = channel_statistics(data.sequences.values)
    # Classes are what a model was trained on; this one was not.
    meaning = data.signature.model_copy(update={"classes": ()})
    content = calibrated(packed, center, spread, meaning)
    replace_file(out, content)
    click.echo(
        f"{out}: calibrated by {len(center)} channels of {data.sequences.lengths.sum():,} "
        f"timesteps, revision {parse(content).revision}"
    )
