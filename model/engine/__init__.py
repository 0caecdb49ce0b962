"""Embeddings computed from a packed file."""
