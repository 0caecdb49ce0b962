"""The house is as docs/architecture.md and the contracts in pyproject.toml say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import ROOT

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
