"""The embedded models; the default one embeds numeric sequences of any kind."""

from pathlib import Path

EMBEDDED_MODELS = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}
DEFAULT_MODEL = EMBEDDED_MODELS["universal"]
