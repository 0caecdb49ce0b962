"""Asks a service on this machine whether it is ready."""

import http.client
import json
import ssl

from tritserve.model.errors import UserError
from tritserve.service.settings import Settings

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class NotReadyError(UserError):
    """A service that is not ready, or not there."""


def check_ready(settings: Settings, seconds: float) -> None:
    """Asks `/health/ready` as the settings say where it is.

    Args:
        settings: those of the service.
        seconds: how long to wait for the answer.

    Raises:
        NotReadyError: it is not ready, or does not answer.
    """
    host = ANY_ADDRESS.get(settings.host, settings.host)
    connection: http.client.HTTPConnection
    if settings.ssl_certfile:
        # The certificate is that of the service's name, not of this machine's own address.
        unverified = ssl.create_default_context()
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, settings.port, timeout=seconds, context=unverified
        )
    else:
        connection = http.client.HTTPConnection(host, settings.port, timeout=seconds)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotReadyError(f"no answer from {host}, port {settings.port}: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise NotReadyError(f"not ready: {_reason(body) or answer.reason}")


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
