"""A path is a `Path` or a string, everywhere."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import numpy as np

import tritserve.model
from tritserve.model.data import dataset, writing
from tritserve.model.engine.engine import Engine
from tritserve.model.packed import file
from tritserve.model.training import checkpoint
from tritserve.model.training.export import export
from tritserve.model.training.log import read_log
from tritserve.model.training.plot import plot_training
from tritserve.model.training.recipe import Recipe, Schedule, read_recipe, to_toml
from tritserve.model.training.rule import recipe_for
from tritserve.model.training.train import train


def doors():
    """Every public function and method of the model's modules, by name."""
    for found in pkgutil.walk_packages(tritserve.model.__path__, "tritserve.model."):
        module = importlib.import_module(found.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "") != found.name:
                continue
            if inspect.isfunction(thing):
                yield f"{found.name}.{name}", thing
            elif inspect.isclass(thing):
                for key, method in inspect.getmembers(thing, callable):
                    if key == "__init__" or not key.startswith("_"):
                        yield f"{found.name}.{name}.{key}", method


def test_whoever_takes_a_path_takes_a_string():
    takers = {
        f"{name}({parameter})": kind
        for name, door in doors()
        for parameter, kind in getattr(door, "__annotations__", {}).items()
        if parameter != "return" and "Path" in str(kind)
    }
    assert len(takers) > 15
    assert not [name for name, kind in takers.items() if "str" not in str(kind)]


def test_strings_lead_from_data_to_embeddings(tmp_path):
    base = str(tmp_path)
    values = np.random.default_rng(0).standard_normal((8, 5, 3))
    writing.write(f"{base}/d.npz", values, [0, 1] * 4)
    assert len(dataset.load(f"{base}/d.npz", "train").sequences) == 8
    Path(f"{base}/r.toml").write_text(to_toml(recipe_for(f"{base}/d.npz")))
    ruled = read_recipe(f"{base}/r.toml")
    assert ruled == Recipe.model_validate({**ruled.model_dump(), "dataset": f"{base}/d.npz"})
    trained = train(ruled.model_copy(update={"schedule": Schedule(steps=2)}), folder=f"{base}/run")
    checkpoint.save(trained, f"{base}/run")
    assert plot_training(f"{base}/run") == tmp_path / "run" / "training.png"
    assert len(read_log(f"{base}/run")) == 2
    loaded = checkpoint.load(f"{base}/run")
    export(loaded.model, f"{base}/m.safetensors", name="m", training={})
    assert file.read(f"{base}/m.safetensors").name == "m"
    assert Engine.load(f"{base}/m.safetensors").model.name == "m"
