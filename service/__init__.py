"""Bytes to embeddings: the HTTP service, its client and the command line."""
