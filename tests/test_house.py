"""The house is as docs/architecture.md and the contracts in pyproject.toml say."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.builders import ROOT

ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [
    *ROOT.glob("*.md"),
    *(
        page
        for name in ("client", "data", "docs", "examples", "model")
        for page in (ROOT / name).rglob("*.md")
    ),
]
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
NAME = re.compile(r"`(\w+(?:(?:\.|::)\w+)*)`")
# In C++, at the start of a line: types, and functions whose body follows.
DEFINITION = re.compile(r"^(?:[\w:<>&*]+ )*([\w:]+)(?:\([^;{]*(?=\{)| \{)", re.MULTILINE)
SERVING = ("tritserve", "tritserve.model.engine.engine", "tritserve.service.process.supervisor")


def run(*command, **environment):
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("service/http/body.py", "from tritserve.service.embedding import batcher"),
        ("service/oip/rest/form.py", "from tritserve.service.oip.grpc import parts"),
        ("model/packed/trits.py", "from tritserve.model.training import rule"),
        ("model/sequences.py", "from tritserve.service import errors"),
        ("service/forms/npy.py", "import torch"),
        ("service/forms/npy.py", "import tritserve.model.network.bitnet"),
    ],
)
def test_an_import_that_goes_up_is_found(tmp_path, file, line):
    for name in ("model", "service", "tritserve"):
        shutil.copytree(
            ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("native")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    lint = Path(sys.executable).with_name("lint-imports")

    def broken():
        # Not the installed package, which an import hook would find first.
        made = subprocess.run(
            [sys.executable, "-S", "-c", HOOKLESS, str(lint)],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])},
        )
        assert "Contracts:" in made.stdout, made.stdout + made.stderr
        return made.returncode

    assert broken() == 0
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    assert broken() == 1


HOOKLESS = (
    "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def test_nothing_that_serves_imports_torch():
    code = (
        f"import sys, {', '.join(SERVING)}\n"
        "print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    )
    made = run(sys.executable, "-c", code)
    assert made.stdout.strip() == "[]", made.stderr


def test_asking_for_health_imports_little():
    """Health checks of containers run it every few seconds, in a second or two."""
    made = run(sys.executable, "-X", "importtime", "-m", "tritserve", "health", TRITSERVE_PORT="1")
    imported = {line.rpartition("|")[2].strip() for line in made.stderr.splitlines()}
    assert "tritserve.service.process.health" in imported
    unneeded = {"numpy", "tritserve.model.engine.engine", "fastapi", "uvicorn", "httpx", "tqdm"}
    assert not imported & unneeded


def test_files_stay_small():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in [*(ROOT / "model").rglob("*.py"), *(ROOT / "service").rglob("*.py")]
        if (lines := len(path.read_text().splitlines())) > 320
    }
    assert not long


def links(page):
    """The text of each link of a page to a place in the repository, and that place."""
    found = LINK.findall(page.read_text())
    return [
        (text, (page.parent / target.partition("#")[0]).resolve())
        for text, target in found
        if not re.match(r"\w+:|#", target)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    assert not [str(target) for _, target in links(page) if not target.exists()]


def defined(file):
    """The functions and classes that a file defines; those in a class, or function, by both."""
    if file.suffix != ".py":
        return set(DEFINITION.findall(file.read_text()))

    def names(node, outer):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield outer + child.name
                yield from names(child, f"{outer}{child.name}.")

    return set(names(ast.parse(file.read_text()), ""))


def test_what_the_architecture_names_is_defined_in_the_file_beside_it():
    named = [
        (name[1], target) for text, target in links(ARCHITECTURE) if (name := NAME.fullmatch(text))
    ]
    assert {"Batcher.submit", "EmbeddingService.answer", "make_panels"} <= {n for n, _ in named}
    missing = [f"{name} in {file.name}" for name, file in named if name not in defined(file)]
    assert not missing


def floors(layers):
    return [{name.strip() for name in layer.split("|")} for layer in layers]


@pytest.mark.parametrize("half", ["service", "model"])
def test_the_picture_of_the_floors_is_that_of_the_contracts(half):
    (picture,) = re.findall(rf"^`{half}/`:\n\n```\n(.*?)```", ARCHITECTURE.read_text(), re.M | re.S)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [
        contract["layers"]
        for contract in contracts["contracts"]
        if contract.get("containers") == [f"tritserve.{half}"]
    ]
    drawn = [re.split("  +", line)[0] for line in picture.splitlines()]
    assert floors(drawn) == floors(layers)
