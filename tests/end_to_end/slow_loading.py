"""`tritserve`, but that a packed file takes a second to load."""

import time

from tritserve.model.engine.engine import Engine
from tritserve.service.commands.cli import main

load = Engine.load


def load_slowly(*arguments, **options):
    print('{"event": "loading"}', flush=True)
    time.sleep(1)
    return load(*arguments, **options)


Engine.load = load_slowly
# Workers import this file again.
if __name__ == "__main__":
    main()
