"""Requests, a queue and an engine."""
