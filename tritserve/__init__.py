"""Trains, packs and serves BitNet sequence encoders.

What most need of it, each imported when it is first asked for: a client loads no engine, and only
`BitNet`, `build` and `train` need torch (the extra `train`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritserve.model.engine.engine import Engine
    from tritserve.model.network.bitnet import BitNet, build
    from tritserve.model.sequences import SequenceError
    from tritserve.model.training.train import train
    from tritserve.service.client.client import (
        AsyncClient,
        Client,
        ModelChangedError,
        RequestError,
    )

__all__ = [
    "AsyncClient",
    "BitNet",
    "Client",
    "Engine",
    "ModelChangedError",
    "RequestError",
    "SequenceError",
    "build",
    "train",
]

_HOMES = {
    "AsyncClient": "tritserve.service.client.client",
    "BitNet": "tritserve.model.network.bitnet",
    "Client": "tritserve.service.client.client",
    "Engine": "tritserve.model.engine.engine",
    "ModelChangedError": "tritserve.service.client.client",
    "RequestError": "tritserve.service.client.client",
    "SequenceError": "tritserve.model.sequences",
    "build": "tritserve.model.network.bitnet",
    "train": "tritserve.model.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        advice = _advice(error.name or "")
        if not advice:
            raise
        raise ImportError(f"{name} {advice}", name=error.name) from error


def _advice(missing: str) -> str:
    if missing.startswith(f"{__name__}."):
        return (
            "is not in tritserve-client, which is the client alone; for all of tritserve: "
            "pip uninstall tritserve-client, then pip install tritserve"
        )
    if missing == "torch":
        return "needs torch; pip install 'tritserve[train]'"
    return ""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
