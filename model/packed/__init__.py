"""The packed file."""
