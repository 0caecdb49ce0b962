import pytest
import torch

from tests.builders import random_packed
from tritserve.model.engine.engine import Engine

# Every worker of the suite has a processor; more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """A small random model: 3 features, at most 9 timesteps, 16 numbers."""
    path = tmp_path_factory.mktemp("service") / "m"
    random_packed(path, embed_dim=3, hidden_size=16, num_layers=1, window_size=9)
    return Engine.load(path)
