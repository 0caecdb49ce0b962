"""The encoder in torch."""
