"""The media types of requests and answers."""

from functools import lru_cache

from tritserve.service.errors import NotAcceptableError

JSON = "application/json"
NPY = "application/x-npy"
SAFETENSORS = "application/vnd.safetensors"
OCTETS = "application/octet-stream"
PROTOBUF = "application/protobuf"
BINARY_TYPES = (NPY, SAFETENSORS)
MEDIA_TYPES = (JSON, *BINARY_TYPES)


@lru_cache(maxsize=256)
def parse_content_type(text: str) -> tuple[str, str]:
    """The media type and the charset in `Content-Type`, in lower case; empty where not given."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    charset = next((text[8:].strip('"') for text in parameters if text.startswith("charset=")), "")
    return media_type, charset


@lru_cache(maxsize=256)
def negotiate(accept: str | None) -> str:
    """The media type of the answer: the one that `Accept` likes best.

    Among equals it is the one that `Accept` names most specifically, then JSON.

    Raises:
        NotAcceptableError: it names none of `MEDIA_TYPES`.
    """
    likes = [_parse_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, best_liking = "", (0.0, 0)
    for media_type in MEDIA_TYPES:
        matches = [
            (specificity, quality)
            for pattern, quality in likes
            if (specificity := _matches(pattern, media_type))
        ]
        specificity, quality = max(matches, default=(0, 0.0))
        if quality > 0 and (quality, specificity) > best_liking:
            best, best_liking = media_type, (quality, specificity)
    if not best:
        raise NotAcceptableError(f"Accept is {accept}; the answer can be {', '.join(MEDIA_TYPES)}")
    return best


def _parse_range(text: str) -> tuple[str, float]:
    pattern, *parameters = (part.strip() for part in text.lower().split(";"))
    quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return pattern, float(quality)
    except ValueError:
        return pattern, 0.0


def _matches(pattern: str, media_type: str) -> int:
    """How specifically a media range matches: 3 exactly, 2 by its type, 1 at all, 0 not."""
    if pattern == media_type:
        return 3
    if pattern == f"{media_type.split('/', maxsplit=1)[0]}/*":
        return 2
    return int(pattern == "*/*")
