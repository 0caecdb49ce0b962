"""Bytes to sequences and options; embeddings to bytes."""
