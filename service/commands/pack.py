"""`tritserve pack`."""

from pathlib import Path

import click

from tritserve.model.training.run_folder import belongs_to_run


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def pack(checkpoint: Path, out: Path) -> None:
    """Packs a CHECKPOINT folder into the file OUT, which is replaced only by a good one."""
    from tritserve.model.training.checkpoint import load  # noqa: PLC0415
    from tritserve.model.training.export import export  # noqa: PLC0415

    if belongs_to_run(out, checkpoint):
        raise click.ClickException(f"{out} is a file of the checkpoint; pack into another one")
    trained = load(checkpoint)
    packed = export(
        trained.model,
        out,
        name=trained.name,
        training=trained.training,
        signature=trained.signature,
    )
    click.echo(
        f"{out}: {packed.file_bytes:,} bytes, {packed.bits_per_weight:.3f} bits a weight, "
        f"revision {packed.revision}"
    )
