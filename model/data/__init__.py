"""Data sets: ragged sequences, with labels or without."""
