"""Asks a service on this machine whether it is ready."""

import http.client
import json
import socket
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
    connection = http.client.HTTPConnection("localhost")
    try:
        connection.sock = _connect(settings, seconds)
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotReadyError(f"no answer from {_place(settings)}: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise NotReadyError(f"not ready: {_reason(body) or answer.reason}")


def _connect(settings: Settings, seconds: float) -> socket.socket:
    if settings.socket_path:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        connection.connect(str(settings.socket_path))
    else:
        host = ANY_ADDRESS.get(settings.host, settings.host)
        connection = socket.create_connection((host, settings.port), timeout=seconds)
    if not settings.ssl_certfile:
        return connection
    # The certificate is that of the service's name, not of this machine's own address.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return unverified.wrap_socket(connection)


def _place(settings: Settings) -> str:
    if settings.socket_path:
        return settings.host
    return f"{ANY_ADDRESS.get(settings.host, settings.host)}, port {settings.port}"


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
