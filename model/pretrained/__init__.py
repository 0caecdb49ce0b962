"""The default model: speaker embeddings of Japanese vowels."""

from pathlib import Path

DEFAULT_MODEL = Path(__file__).parent / "japanese-vowels.safetensors"
