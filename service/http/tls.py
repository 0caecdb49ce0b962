"""TLS: its certificate, and handshakes that are bounded in time and in number.

An event loop that serves TLS by itself tells of a connection only once its handshake is done, so
that clients which send nothing would be held for a minute each, and as many as there are. So
connections are accepted here. A handshake is done within `header_seconds`, and at most
`max_connections` are under way: one more is closed at once, for before a handshake there is no way
to say why.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from pydantic import SecretStr
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tritserve.service.observing.metrics import Metrics
from tritserve.service.settings import Settings, SettingsError

# Before another connection is accepted, where one could not be.
PAUSE_SECONDS = 1.0
# For a client's part in the end of a connection.
SHUTDOWN_SECONDS = 1.0

log = logging.getLogger("tritserve")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The certificate and its key, None without.

    Raises:
        SettingsError: they cannot be used.
    """
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile or settings.ssl_keyfile_password:
            raise SettingsError("TRITSERVE_SSL_KEYFILE is of no use without TRITSERVE_SSL_CERTFILE")
        return None
    cert, key = settings.ssl_certfile, settings.ssl_keyfile
    # Without any password, OpenSSL would ask for that of a locked key on the terminal.
    password = (settings.ssl_keyfile_password or SecretStr("")).get_secret_value()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password)
    except OSError as error:
        files = f"{cert} and {key or 'the key in it'}"
        raise SettingsError(f"TLS: {files} cannot be used: {error}") from error
    return context


class Handshakes:
    """Accepts connections over TLS.

    Args:
        make: a protocol, for one connection.
        context: gives the certificate of the time.
        settings: of the service.
        metrics: where refusals are counted.
    """

    def __init__(
        self,
        make: Callable[[], HttpToolsProtocol],
        context: Callable[[], ssl.SSLContext | None],
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._make = make
        self._context = context
        self._seconds = settings.header_seconds
        self._limit = settings.max_connections
        self._refused = metrics.refused_connections
        self._running: set[asyncio.Task[None]] = set()

    async def accept(self, listener: socket.socket) -> None:
        """Accepts on a listening socket until cancelled."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionError:
                # The client has left already.
                continue
            except OSError as error:
                # Too many files are open, most likely.
                log.error("a connection cannot be accepted: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if len(self._running) >= self._limit:
                self._refused.labels("too_many").inc()
                connection.close()
                continue
            task = loop.create_task(self._shake_hands(connection))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        protocol = self._make()
        with suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        # Neither a failure nor a client that leaves is told to the protocol.
        if protocol.transport is None:
            self._refused.labels("handshake").inc()
