"""A recipe is written as TOML that reads as the same recipe."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tritserve.model.training.recipe import Recipe, RecipeError, read_recipe, to_toml

TEXT = st.text(min_size=1, max_size=200)


@settings(deadline=None)
@given(TEXT, TEXT.filter(lambda text: "\0" not in text))
@example("🙂 \x7f \0 \x85 \" \\ ''' \r\n\t", '/sets/🙂\x7f\x1f"\\\n.npz')
def test_any_name_and_any_path_come_back(tmp_path_factory, name, dataset):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(to_toml(Recipe(name=name, dataset=Path(dataset))).encode())
    found = read_recipe(path)
    assert found.name == name
    assert found.dataset == (path.parent / dataset).resolve()


def test_a_path_that_toml_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match=r"TOML is Unicode, the path '/a\\udcff.npz' is not"):
        to_toml(Recipe(name="x", dataset=Path("/a\udcff.npz")))
    (tmp_path / "r.toml").write_text('name = "x"\ndataset = "a\\u0000"')
    with pytest.raises(RecipeError, match=r"dataset: .* no null character"):
        read_recipe(tmp_path / "r.toml")
