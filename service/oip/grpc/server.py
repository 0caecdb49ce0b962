"""The Open Inference Protocol over gRPC: a port of its own, in the event loop that HTTP has."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.http.credentials import Credentials
from tritserve.service.http.listening import addresses
from tritserve.service.oip.grpc.calls import Calls
from tritserve.service.oip.tensors import METHODS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# For calls that are still open when the service has finished, or given up.
CLOSE_SECONDS = 5.0
# For health, and for telling others that there are too many; beyond, gRPC refuses by itself.
SPARE_CALLS = 128
CONNECTION_MS = 300_000
MAX_STREAMS = 128

log = logging.getLogger("tritserve")


def _secrets(credentials: Credentials) -> grpc.ServerCredentials | None:
    """TLS as HTTP has it, None without; each handshake is given the certificate of the time."""
    if credentials.pem is None:
        return None

    def fetch() -> grpc.ServerCertificateConfiguration:
        assert credentials.pem
        return grpc.ssl_server_certificate_configuration([credentials.pem])

    return grpc.dynamic_ssl_server_credentials(fetch(), fetch)


@asynccontextmanager
async def serving_grpc(
    service: EmbeddingService, traces: "TracerProvider | None"
) -> AsyncIterator[None]:
    """Serves until the context is left, then lets open calls end.

    Raises:
        OSError: the address cannot be had.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_failed_answer)
    settings = service.settings
    most = settings.max_connections + SPARE_CALLS
    options = [
        ("grpc.max_receive_message_length", settings.grpc_message_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", most),
        ("grpc.max_connection_age_ms", CONNECTION_MS),
        ("grpc.max_connection_age_grace_ms", round(1000 * settings.send_seconds)),
        ("grpc.max_connection_idle_ms", CONNECTION_MS),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        # Workers share the port; anybody else on it is a mistake.
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=most)
    calls = Calls(service, traces)
    for name, methods in METHODS.items():
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method: grpc.stream_stream_rpc_method_handler(partial(calls.answer, method))
            for method in methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    server.add_generic_rpc_handlers((_Others(calls),))
    secrets = _secrets(service.credentials)
    for host in addresses(settings.host):
        address = (
            f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}"
        )
        try:
            if secrets:
                server.add_secure_port(address, secrets)
            else:
                server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from error
    await server.start()
    log.info("gRPC on %s:%d", settings.url_host, settings.grpc_port)
    try:
        yield
    finally:
        await server.stop(CLOSE_SECONDS)


class _Others(grpc.GenericRpcHandler):
    """Refuses, in words, methods that are not there."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        path = handler_call_details.method
        return grpc.stream_stream_rpc_method_handler(partial(self._calls.refuse, path))


def _is_no_failed_answer(record: logging.LogRecord) -> bool:
    """Whether gRPC logs anything but that it could not send an answer: its client has left."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"
