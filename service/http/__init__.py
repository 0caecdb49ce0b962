"""The edge: connections, bodies, keys, answers."""
