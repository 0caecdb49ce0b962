"""API keys and the TLS certificate: read at the start, and again at each reload."""

import logging
import ssl

from tritserve.model.errors import UserError
from tritserve.service.http.tls import tls_context
from tritserve.service.settings import BAD_KEY, KEY, Settings, SettingsError

log = logging.getLogger("tritserve")


class CredentialsError(UserError):
    """Keys or a certificate that a reload could not use."""


def read_api_keys(settings: Settings) -> tuple[str, ...]:
    """All API keys.

    Raises:
        SettingsError: a key is empty, or the file cannot be read or has none.
    """
    keys: list[str] = []
    if settings.api_keys is not None:
        keys = [key.strip() for key in settings.api_keys.get_secret_value().split(",")]
        if not all(keys):
            raise SettingsError("TRITSERVE_API_KEYS holds an empty key")
    if settings.api_keys_file is not None:
        try:
            lines = [line.strip() for line in settings.api_keys_file.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"TRITSERVE_API_KEYS_FILE cannot be read: {error}") from error
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise SettingsError(f"{settings.api_keys_file} holds no API key")
        keys += found
    if not all(KEY.fullmatch(key) for key in keys):
        raise SettingsError(f"an API key {BAD_KEY}")
    return tuple(keys)


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

    def renew(self) -> str | None:
        """Reads the files again; where they cannot be used, the old go on, and the log says why.

        Returns:
            What the log says, None where all is well.
        """
        wrong = []
        for read in (self._read_keys, self._read_certificate):
            try:
                read()
            except (SettingsError, OSError) as error:
                wrong.append(f"what was read before goes on: {error}")
                log.error(wrong[-1])
        return "; ".join(wrong) or None

    def _read_keys(self) -> None:
        self.keys = read_api_keys(self._settings)

    def _read_certificate(self) -> None:
        # A new context: a file that is wrong would spoil the one that serves.
        context = tls_context(self._settings)
        if self._settings.ssl_certfile:
            chain = self._settings.ssl_certfile.read_bytes()
            key = self._settings.ssl_keyfile
            self.pem = (key.read_bytes() if key else chain, chain)
        self.context = context
