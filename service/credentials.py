"""API keys and the TLS certificate: read at the start, and again at each reload."""

import logging
import ssl

from service.settings import Settings, SettingsError
from service.tls import tls_context

log = logging.getLogger("tritserve")


class Credentials:
    """What the settings and the files that they name say now.

    Attributes:
        keys: all API keys; none at the start, none ever.
        context: the certificate and its key for HTTP, None without.
        pem: the key's file and the certificate's for gRPC, None without.

    Raises:
        SettingsError: they cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.keys: tuple[str, ...] = ()
        self.context: ssl.SSLContext | None = None
        self.pem: tuple[bytes, bytes] | None = None
        self._read_keys()
        self._read_certificate()

    def renew(self) -> None:
        """Reads the files again; where they cannot be used, the old go on, and the log says why."""
        for read in (self._read_keys, self._read_certificate):
            try:
                read()
            except (SettingsError, OSError) as error:
                log.error("what was read before goes on: %s", error)

    def _read_keys(self) -> None:
        self.keys = self._settings.read_api_keys()

    def _read_certificate(self) -> None:
        # A new context: a file that is wrong would spoil the one that serves.
        context = tls_context(self._settings)
        if self._settings.ssl_certfile:
            chain = self._settings.ssl_certfile.read_bytes()
            key = self._settings.ssl_keyfile
            self.pem = (key.read_bytes() if key else chain, chain)
        self.context = context
