"""The gRPC server, where it is asked for: its packages come with the extra `grpc`.

Nothing of them is imported while `grpc_port` is not set.
"""

import os
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.http import listening
from tritserve.service.oip.tensors import METHODS, OTHER
from tritserve.service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def routes(settings: Settings) -> tuple[str, ...]:
    """Under which gRPC requests are counted."""
    if settings.grpc_port is None:
        return ()
    methods = [name for names in METHODS.values() for name in names]
    return tuple(f"grpc/{name}" for name in [*methods, OTHER])


def check(settings: Settings) -> None:
    """Raises SettingsError if gRPC is asked for, but cannot be had."""
    if settings.grpc_port is None:
        return
    # Its core would write lines of its own to standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import tritserve.service.oip.grpc.server  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"TRITSERVE_GRPC_PORT is set, but {error.name} is missing; install tritserve "
            "with its extra 'grpc'"
        ) from error
    if settings.socket_path:
        raise SettingsError(
            f"TRITSERVE_GRPC_PORT is {settings.grpc_port}, but TRITSERVE_HOST is a Unix socket, "
            "which has no ports"
        )
    if settings.ssl_keyfile_password is not None:
        raise SettingsError("gRPC cannot use a TLS key with a password")


def check_port(settings: Settings) -> None:
    """Raises SettingsError if the port is taken, or HTTP's.

    Workers share it, so that gRPC itself would share it with another service too.
    """
    if settings.grpc_port is None:
        return
    if settings.grpc_port == settings.port:
        raise SettingsError(f"TRITSERVE_GRPC_PORT is {settings.grpc_port}, as is HTTP's port")
    try:
        for listener in listening.listen(settings, settings.grpc_port):
            listener.close()
    except OSError as error:
        raise SettingsError(f"TRITSERVE_GRPC_PORT is {settings.grpc_port}: {error}") from error


def serving(
    service: EmbeddingService, traces: "TracerProvider | None"
) -> AbstractAsyncContextManager[None]:
    """Serves gRPC, if it is asked for, until the context is left."""
    if service.settings.grpc_port is None:
        return nullcontext()
    from tritserve.service.oip.grpc.server import serving_grpc  # noqa: PLC0415

    return serving_grpc(service, traces)
