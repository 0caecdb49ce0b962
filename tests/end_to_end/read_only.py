"""`tritserve`, but that nothing can be written, as in a container with a read-only root.

A real one needs rights that not every machine gives; whatever Python opens, makes or removes passes
by here.
"""

import errno
import os
import sys

from tritserve.service.commands.cli import main

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def refuse_writing(event, arguments):
    if event == "open":
        path, _, flags = arguments
        # Descriptors are open already.
        refused = isinstance(path, str | bytes) and flags & WRITING and str(path) != os.devnull
    else:
        refused = event in {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link"}
    if refused:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))


sys.addaudithook(refuse_writing)
# Workers import this file again.
if __name__ == "__main__":
    main()
