"""How many parts a message has, found out before it is parsed.

A part takes two bytes on the wire, but up to a hundred of memory once it is parsed: some megabytes
of them would hold up the event loop for a good part of a second.
"""

from tritserve.service.errors import InvalidError

# A request needs about 30 at most: its own, and those of two inputs and two outputs.
MAX_PARTS = 64
# Of a `ModelInferRequest`: its inputs and outputs, which have parts of their own.
NESTING = {5, 6}

# What a tag says of its part; those that begin and end a group have nothing else.
_VARINT, _LENGTH = 0, 2
_SIZES = {1: 8, 3: 0, 4: 0, 5: 4}


def check_parts(body: bytes) -> None:
    """Looks at the bytes of a `ModelInferRequest`; whether they are one is for its parser to say.

    Raises:
        InvalidError: it has, with its inputs and outputs, more than `MAX_PARTS` parts.
    """
    found = 0
    messages = [(0, len(body), NESTING)]
    while messages:
        at, end, nesting = messages.pop()
        while at < end:
            found += 1
            if found > MAX_PARTS:
                raise InvalidError(
                    f"the request has more than {MAX_PARTS} parts: parameters, inputs, outputs "
                    "and what is in them"
                )
            tag, at = _read_varint(body, at)
            field, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                _, at = _read_varint(body, at)
            elif kind == _LENGTH:
                size, at = _read_varint(body, at)
                if field in nesting:
                    messages.append((at, min(at + size, end), set()))
                at += size
            else:
                at += _SIZES.get(kind, 0)


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends; of at most ten bytes, and 0 beyond the end."""
    number = 0
    for index, byte in enumerate(body[at : at + 10]):
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, at + index + 1
    return number, at + 10
