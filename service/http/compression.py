"""Compressed request bodies."""

import zlib

from tritserve.service.errors import BodyTooLargeError, UnparseableError, UnsupportedMediaTypeError

# A body of gzip may be several in a row (RFC 1952, 2.2); each costs far more than its bytes.
MAX_MEMBERS = 10_000
# zlib's window bits, in which gzip has a header of its own, deflate zlib's; and how many in a row.
_GZIP = (16 + zlib.MAX_WBITS, MAX_MEMBERS)
_ENCODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": (zlib.MAX_WBITS, 1)}
# What follows a member in its piece is copied.
_PIECE_BYTES = 16 * 1024


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before `Content-Encoding`, never more than `limit` bytes of it.

    Raises:
        UnsupportedMediaTypeError: the encoding is unknown.
        UnparseableError: the body is not of that encoding, or not complete.
        BodyTooLargeError: there are more than `limit` bytes.
    """
    name = encoding.strip().lower()
    if name == "identity":
        return body
    if name not in _ENCODINGS:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding is {encoding}; it must be gzip, deflate or identity"
        )
    try:
        return _inflate(body, *_ENCODINGS[name], limit)
    except (zlib.error, EOFError) as error:
        raise UnparseableError(f"the body is not {name}: {error}") from error


def _inflate(body: bytes, window: int, max_members: int, limit: int) -> bytes:
    stream, members = zlib.decompressobj(window), 1
    content: list[bytes] = []
    size = 0
    for start in range(0, len(body), _PIECE_BYTES):
        rest = body[start : start + _PIECE_BYTES]
        while rest:
            if stream.eof:
                stream, members = zlib.decompressobj(window), members + 1
            if members > max_members:
                many = f"it has over {max_members} members"
                raise EOFError("something follows its end" if max_members == 1 else many)
            content.append(stream.decompress(rest, limit + 1 - size))
            size += len(content[-1])
            if size > limit:
                message = f"the body has over {limit} bytes, decompressed; at most {limit} are read"
                raise BodyTooLargeError(message, limit=limit, size=size)
            rest = stream.unused_data
    if not stream.eof:
        raise EOFError("it ends too early")
    return b"".join(content)
