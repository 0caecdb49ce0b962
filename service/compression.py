"""Compressed request bodies."""

import zlib

from service.errors import BodyTooLargeError, UnparseableError, UnsupportedMediaTypeError

# zlib's window bits: gzip has a header of its own, deflate zlib's.
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


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
    if name not in _WINDOWS:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding is {encoding}; it must be gzip, deflate or identity"
        )
    stream = zlib.decompressobj(_WINDOWS[name])
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise UnparseableError(f"the body is not {name}: {error}") from error
    if len(content) > limit:
        message = f"the body has over {limit} bytes, decompressed; at most {limit} are read"
        raise BodyTooLargeError(message, limit=limit, size=len(content))
    if not stream.eof:
        raise UnparseableError(f"the body is not {name}: it ends too early")
    if stream.unused_data:
        raise UnparseableError(f"the body is not {name}: something follows its end")
    return content
