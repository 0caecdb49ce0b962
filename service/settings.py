"""What an operator can set: arguments, or environment variables that begin with TRITSERVE_."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tritserve.model.environment import ISA_VARIABLE, MAX_THREADS
from tritserve.model.errors import UserError, explain
from tritserve.model.pretrained import DEFAULT_MODEL

PREFIX = "TRITSERVE_"
UNIX = "unix:"
DAY = 86_400
KEY = re.compile("[!-~]+")
BAD_KEY: LiteralString = "holds a space, or a letter that a header cannot carry"
# Kubernetes sets these in every pod beside a Service named `tritserve` or `tritserve-grpc`, and
# TRITSERVE_PORT or TRITSERVE_GRPC_PORT to its URL.
SERVICE_LINKS = re.compile(
    PREFIX + r"(GRPC_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# Of the kernel's 108, one ends it.
MAX_SOCKET_PATH_BYTES = 107
SERVICE_URL = re.compile(r"tcp://\S+:\d+")


def _split(given: object) -> object:
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given


def _lower(given: object) -> object:
    return given.lower() if isinstance(given, str) else given


def _strip(given: object) -> object:
    return given.strip() if isinstance(given, str) else given


def _check_host(given: str) -> str:
    if given.startswith(UNIX) and not given.startswith(f"{UNIX}/"):
        raise PydanticCustomError("host", "a Unix socket is given as unix:/path")
    if given.startswith(UNIX):
        size = len(os.fsencode(given.removeprefix(UNIX)))
        if size > MAX_SOCKET_PATH_BYTES:
            raise PydanticCustomError(
                "host",
                "the path of the Unix socket is too long: {size} bytes, of at most {limit}",
                {"size": size, "limit": MAX_SOCKET_PATH_BYTES},
            )
        return given
    try:
        # As whoever looks for its addresses will.
        given.encode("idna")
    except UnicodeError as error:
        raise PydanticCustomError(
            "host", "no host's name; between dots, names have 1 to 63 letters"
        ) from error
    return given


def _check_key(given: SecretStr) -> SecretStr:
    if not KEY.fullmatch(given.get_secret_value()):
        raise PydanticCustomError("key", "it " + BAD_KEY)
    return given


Host = Annotated[str, BeforeValidator(_strip), Field(min_length=1), AfterValidator(_check_host)]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
Key = Annotated[SecretStr, BeforeValidator(_strip), Field(min_length=8), AfterValidator(_check_key)]
Seconds = Annotated[float, Field(gt=0.0, le=DAY)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]


class Settings(BaseSettings):
    """The service's settings; the caller builds them, nothing is read at import.

    Raises:
        pydantic.ValidationError: a setting is unknown or out of range.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: Path = DEFAULT_MODEL
    """The packed file."""
    host: Host = "127.0.0.1"
    """What to listen on; `::` is every address, of IPv4 too; `unix:/path` is a Unix socket."""
    port: int = Field(default=8000, ge=0, le=65_535)
    grpc_port: int | None = Field(default=None, ge=1, le=65_535)
    """Turns on the Open Inference Protocol over gRPC, on a port of its own."""
    grpc_message_bytes: int = Field(default=4 * 2**20, ge=1024, lt=2**31)
    """The largest message over gRPC; many at once are held before any can be looked at."""
    workers: int = Field(default=1, ge=1, le=MAX_THREADS)
    """Server processes on the port."""
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)
    """Threads of the engine; the processors it may use, shared among workers, if not given."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1)
    max_bodies_bytes: int = Field(default=512 * 2**20, ge=1)
    """Bodies of all requests at once, and of their answers until they are sent; more is answered
    429."""
    body_seconds: Seconds = 30.0
    """How long a body may take to arrive; then the answer is 408."""
    header_seconds: Seconds = 10.0
    """How long a request's line and headers may take to arrive, a TLS handshake, or a new
    connection stay unused."""
    keep_alive_seconds: int = Field(default=75, ge=1, le=DAY)
    """How long a connection stays open after an answer. Clients and load balancers should close
    theirs earlier: a request that crosses the closing is lost."""
    max_header_bytes: int = Field(default=32 * 1024, ge=256, lt=2**31)
    send_seconds: Seconds = 30.0
    """After this long without taking anything of its answers, at most twice as long, a client is
    cut off."""
    max_connections: int = Field(default=1000, ge=1, le=1_000_000)
    """Connections open at once, in each worker, but for a few more that only health is asked on;
    beside them, TLS handshakes; over gRPC, as many, and as many calls, but for some for health."""
    max_sequences: int = Field(default=65_536, ge=1)
    """Sequences in one request."""
    max_request_timesteps: int | None = Field(default=None, ge=1)
    """Timesteps in one request; if not given, an eighth of `queue_timesteps`, so that one request
    does not keep all others out. A full call of the engine, and the longest sequence that the
    model takes, then go in any case."""
    queue_timesteps: int = Field(default=1_000_000, ge=1)
    """Timesteps admitted at once, waiting or computing; more is answered 429."""
    batch_timesteps: int = Field(default=8_192, ge=1)
    """Timesteps in one call of the engine; at least one sequence always goes."""
    drain_delay_seconds: float = Field(default=0.0, ge=0.0, le=DAY)
    """How long new requests are still answered after a signal to stop, while the service says
    that it is not ready; until load balancers know."""
    drain_seconds: Seconds = 30.0
    """How long accepted requests have to finish after a signal to stop."""
    stuck_seconds: Seconds = 60.0
    """After this long in one call of the engine, the service says that it is not ready."""
    log_level: Annotated[LogLevel, BeforeValidator(_lower)] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """JSON lines, or text to read; `auto` is text where standard error is a terminal."""
    admin_key: Key | None = None
    """Turns on `POST /admin/reload`, which needs it."""
    api_keys: SecretStr | None = None
    """Keys, separated by commas; as soon as there is one, everything needs one but health and the
    API's description."""
    api_keys_file: Path | None = None
    """A file of further keys, one a line; empty lines and lines that begin with # do not count."""
    cors_origins: Annotated[list[Origin], NoDecode, BeforeValidator(_split)] = []
    """Origins whose pages may ask, separated by commas; none if not given."""
    ssl_certfile: FilePath | None = None
    """A PEM file with the certificate and its chain; turns on TLS."""
    ssl_keyfile: FilePath | None = None
    """A PEM file with the certificate's key, if it is not in the same file."""
    ssl_keyfile_password: SecretStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_service_links(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in given.items()
            if not (name in {"port", "grpc_port"} and SERVICE_URL.fullmatch(str(value)))
        }

    @property
    def socket_path(self) -> Path | None:
        """Where the Unix socket is, None where the host is an address."""
        return Path(self.host.removeprefix(UNIX)) if self.host.startswith(UNIX) else None

    @property
    def url_host(self) -> str:
        """The host as a URL has it: an address of IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host


class SettingsError(UserError):
    """Settings that make no sense."""


def read_settings(**given: Any) -> Settings:
    """The settings from arguments and, where there is none, from the environment.

    Raises:
        SettingsError: one is unknown or out of range.
    """
    _check_names(os.environ)
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(f"settings: {explain(error)}") from error


def _check_names(names: Iterable[str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {ISA_VARIABLE}
    unknown = sorted(
        name
        for name in names
        if name.upper().startswith(PREFIX)
        and name not in known
        and not SERVICE_LINKS.fullmatch(name)
    )
    if any(name.endswith("_SERVICE_HOST") for name in unknown):
        raise SettingsError(
            f"{', '.join(unknown)}: no such setting; Kubernetes tells of a Service by variables "
            "like these, unless the pod has enableServiceLinks: false"
        )
    if unknown:
        raise SettingsError(f"{', '.join(unknown)}: no such setting; there are {sorted(known)}")
