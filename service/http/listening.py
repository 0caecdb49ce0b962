"""What the service listens on: every address of its host, or a Unix socket."""

import socket
from contextlib import suppress
from pathlib import Path

from tritserve.service.settings import Settings

BACKLOG = 2048
LOOPBACK = ("127.0.0.1", "::1")


def listen(settings: Settings, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address of the host; for a Unix socket, its one.

    Args:
        settings: of the service.
        port: on every address; 0 is one that is free. A Unix socket has none.

    Raises:
        OSError: an address cannot be had.
    """
    if settings.socket_path:
        return [_listen_at(settings.socket_path)]
    listeners: list[socket.socket] = []
    try:
        for address in addresses(settings.host):
            listeners.append(_listen_on(address, port))
            port = port or listeners[0].getsockname()[1]
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def addresses(host: str) -> list[str]:
    """The addresses of a host that this machine has; all of them if it has none.

    `localhost` is that of IPv4 and that of IPv6, whatever the machine's own tables say: its clients
    may try either first.

    Raises:
        OSError: there is no such host.
    """
    if ":" in host:
        return [host]
    if host == "localhost":
        named = list(LOOPBACK)
    else:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"TRITSERVE_HOST is {host}: {error.strerror}") from error
        named = list(dict.fromkeys(str(address[0]) for *_, address in found))
    return [address for address in named if _is_here(address)] or named


def remove(settings: Settings) -> None:
    """Removes the file of the Unix socket, if the settings name one."""
    if settings.socket_path:
        settings.socket_path.unlink(missing_ok=True)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _is_here(address: str) -> bool:
    with suppress(OSError), socket.socket(_family(address)) as probe:
        probe.bind((address, 0))
        return True
    return False


def _listen_on(address: str, port: int) -> socket.socket:
    both = address == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (address, port), family=_family(address), backlog=BACKLOG, dualstack_ipv6=both
    )


def _listen_at(path: Path) -> socket.socket:
    """A Unix socket; the process's umask says who may connect."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and _is_abandoned(path):
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{error.strerror or error}: unix:{path}") from error
    return listener


def _is_abandoned(path: Path) -> bool:
    """Whether nobody listens there any more: its process was killed."""
    with socket.socket(socket.AF_UNIX) as probe:
        # A full queue of connections is no reason to wait: somebody listens.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False
