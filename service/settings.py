"""What an operator can set: arguments, or environment variables that begin with TRITSERVE_."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.pretrained import DEFAULT_MODEL


class Settings(BaseSettings):
    """The service's settings; the caller builds them, nothing is read at import.

    Raises:
        pydantic.ValidationError: a setting is unknown or out of range.
    """

    model_config = SettingsConfigDict(env_prefix="TRITSERVE_", frozen=True, extra="forbid")

    model: Path = DEFAULT_MODEL
    """The packed file."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=1024)
    """Server processes on the port."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads of the engine; the processors it may use, shared among workers, if not given."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1)
    max_sequences: int = Field(default=65_536, ge=1)
    """Sequences in one request."""
    queue_timesteps: int = Field(default=1_000_000, ge=1)
    """Timesteps admitted at once, waiting or computing; more is answered 429."""
    batch_timesteps: int = Field(default=8_192, ge=1)
    """Timesteps in one call of the engine; at least one sequence always goes."""
    drain_delay_seconds: float = Field(default=0.0, ge=0.0)
    """How long new requests are still answered after a signal to stop, while the service says
    that it is not ready; until load balancers know."""
    drain_seconds: float = Field(default=30.0, gt=0.0)
    """How long accepted requests have to finish after a signal to stop."""
    stuck_seconds: float = Field(default=60.0, gt=0.0)
    """After this long in one call of the engine, the service says that it is not ready."""
    admin_key: SecretStr | None = Field(default=None, min_length=8)
    """Turns on `POST /admin/reload`, which needs it."""
