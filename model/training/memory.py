"""What a user is told where there is not enough memory for what they asked."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tritserve.model.errors import UserError


class OutOfMemoryError(UserError):
    """Something that does not fit into memory."""


@contextmanager
def memory_needed(what: str) -> Iterator[None]:
    """Makes the errors of allocators, numpy's, Python's and torch's, one that a user can mend.

    Args:
        what: takes the memory, as the message's subject.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Torch has no type of its own for it.
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        size = re.search(r"allocate (\d+) bytes", str(error))
        asked = f" ({int(size[1]):,} bytes more are needed)" if size else ""
        raise OutOfMemoryError(f"{what} does not fit into memory{asked}") from error
