"""The embedded models; the default one makes speaker embeddings of Japanese vowels."""

from pathlib import Path

EMBEDDED_MODELS = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}
DEFAULT_MODEL = EMBEDDED_MODELS["japanese-vowels"]
