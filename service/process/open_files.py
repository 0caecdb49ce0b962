"""How many files the process may have open: enough for the connections that it is to hold."""

import logging
import resource

from tritserve.service.settings import Settings

# The listening sockets, the engine's, the event loop's, the log.
BESIDE = 64

log = logging.getLogger("tritserve")


def allow(settings: Settings) -> None:
    """Raises the process's limit as far as is needed; logs a warning where that is not allowed."""
    # As many TLS handshakes may be under way, and connections of gRPC.
    needed = (2 + (settings.grpc_port is not None)) * settings.max_connections + BESIDE
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= needed:
        return
    allowed = needed if most == resource.RLIM_INFINITY else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if allowed < needed:
        log.warning(
            "%d files may be open at once, %d connections may need %d: raise the hard limit "
            "(ulimit -Hn), or lower TRITSERVE_MAX_CONNECTIONS",
            allowed,
            settings.max_connections,
            needed,
        )
