"""`tritserve serve`."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from tritserve.service.commands.arguments import model_option
from tritserve.service.process import early_signals

# For several processes of another program to count together; where prometheus_client finds one
# when it is imported, it does not count for this process alone. Our workers get a folder of theirs.
FOREIGN = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


@click.command()
@model_option
@click.option("--host", help="Address to listen on, or unix:/path; 127.0.0.1 if not given.")
@click.option("--port", type=click.IntRange(0, 65_535), help="8000 if not given.")
@click.option("--workers", type=click.IntRange(1), help="Processes on the port; 1 if not given.")
def serve(model: Path, **given: Any) -> None:
    """Serves a packed model over HTTP; TRITSERVE_ variables set the rest."""
    early_signals.handle()
    from tritserve.service.observing import logs, tracing  # noqa: PLC0415
    from tritserve.service.settings import read_settings  # noqa: PLC0415

    settings = read_settings(model=model, **{k: v for k, v in given.items() if v is not None})
    logs.configure(settings)
    tracing.pass_over_unknown_propagators()
    for name in FOREIGN:
        os.environ.pop(name, None)
    from tritserve.service.embedding.served import load_engine  # noqa: PLC0415
    from tritserve.service.process.server import check, run  # noqa: PLC0415
    from tritserve.service.process.supervisor import Supervisor  # noqa: PLC0415

    check(settings)
    if settings.workers > 1:
        # What keeps one worker from starting keeps all.
        load_engine(settings)
        sys.exit(Supervisor(settings).run())
    run(settings)
