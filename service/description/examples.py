"""Example requests in the API's description; the page at /docs sends them to the served model."""

import math
from typing import Any

from tritserve.service.forms.media import JSON
from tritserve.service.forms.wire import Limits

# Of an example for a model that takes any number.
CHANNELS = 3


def add_examples(description: dict[str, Any], limits: Limits) -> None:
    """Gives each route for embeddings an example that the model takes.

    Args:
        description: of the API; changed in place.
        limits: those of the served model.
    """
    width = limits.embed_dim or CHANNELS
    lengths = [min(2, limits.max_timesteps), 1]
    values = [
        [round(math.sin(1 + timestep + feature), 2) for feature in range(width)]
        for timestep in range(sum(lengths))
    ]
    embed = {"sequences": [values[: lengths[0]], values[lengths[0] :]]}
    infer = {
        "inputs": [
            {
                "name": "values",
                "datatype": "FP32",
                "shape": [len(values), width],
                "data": values,
            },
            {"name": "lengths", "datatype": "INT64", "shape": [len(lengths)], "data": lengths},
        ],
        "parameters": {"normalize": True},
    }
    for path, operations in description["paths"].items():
        if path == "/embed" or path.endswith("/infer"):
            content = operations["post"]["requestBody"]["content"]
            content[JSON]["example"] = embed if path == "/embed" else infer
