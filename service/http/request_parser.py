"""The parser of requests, which reads one that offers an upgrade, as to HTTP/2, as any other."""

from typing import Any, Protocol, Self

import httptools


class Upgradable(Protocol):
    """Whose requests are parsed."""

    def take_offer(self) -> bytes | None:
        """What to read once more where the parser has stopped at the offer of an upgrade."""

    def new_parser(self) -> "RequestParser":
        """Takes another parser, which begins with the line of a request."""


class RequestParser(httptools.HttpRequestParser):
    """Reads a request that offers an upgrade once more without the offer.

    A server may ignore it (RFC 9110, 7.8), but the parser ends such a request after its headers.
    """

    def __init__(self, protocol: Upgradable) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parses what was received, and calls the protocol."""
        rest = memoryview(data)
        parser: RequestParser | Self = self
        while True:
            try:
                httptools.HttpRequestParser.feed_data(parser, rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head = self._protocol.take_offer()
                if head is None:
                    raise
                # Where the connection is not kept, this one reads nothing more.
                parser = self._protocol.new_parser()
                httptools.HttpRequestParser.feed_data(parser, head)
                rest = rest[upgrade.args[0] :]
