"""The examples, each run beside a real service: what they print of real data holds."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.builders import ROOT
from tests.end_to_end.server import serving

# Decembers of strong events, by NOAA's Oceanic Nino Index; that of 1997 is asked with.
EL_NINO = {1957, 1965, 1972, 1982, 1986, 1987, 1991}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Where the embedded model is served."""
    with serving(log=tmp_path_factory.mktemp("service") / "log") as (url, _):
        yield url


@pytest.fixture(scope="module")
def postgres():
    """The address of a database that has pgvector, in a cluster of its own."""
    named = [Path(found)] if (found := shutil.which("pg_config")) else []
    for config in [*named, *Path("/usr/lib/postgresql").glob("*/bin/pg_config")]:
        told = subprocess.check_output([config, "--bindir", "--sharedir"], text=True)
        programs, shared = map(Path, told.splitlines())
        if (programs / "initdb").exists() and (shared / "extension" / "vector.control").exists():
            break
    else:
        pytest.skip("no PostgreSQL with pgvector; Debian calls it postgresql-N-pgvector")
    # Short, for a socket's path is; and PostgreSQL refuses to run as root.
    with tempfile.TemporaryDirectory() as folder:
        user = "nobody" if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)

        def run(program, *arguments):
            command = [programs / program, "--pgdata", f"{folder}/data", *arguments]
            with Path(folder, "log").open("ab") as log:
                subprocess.run(
                    command, check=True, cwd=folder, user=user, stdout=log, stderr=log, timeout=60
                )

        run("initdb", "--auth", "trust", "--username", "postgres", "--no-sync")
        run("pg_ctl", "start", "--wait", "--options", f"-h '' -k {folder}")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode", "immediate")


def printed(name, *arguments):
    """The lines that an example prints."""
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        # Threads of BLAS that wait for each other take minutes where other tests run beside.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def figures(line):
    return [float(figure) for figure in re.findall(r"\d\.\d+", line)]


def test_with_few_labels_embeddings_classify(url):
    lines = printed("classify.py", url)[2:]
    scores = {line.split()[0]: figures(line) for line in lines}
    least = {
        "JapaneseVowels": 0.88,
        "BasicMotions": 0.95,
        "GunPoint": 0.88,
        "ItalyPowerDemand": 0.91,
        "ArrowHead": 0.72,
        "OSULeaf": 0.5,
        "PLAID": 0.5,
        "ACSF1": 0.45,
    }
    assert set(scores) == set(least)
    for name, (ten, five, two, *statistics) in scores.items():
        assert ten > least[name]
        assert ten >= two
        assert five > 0.9 * two
        assert len(statistics) == 3
    assert sum(embedding > statistics for embedding, _, _, statistics, _, _ in scores.values()) >= 4
    # They know nothing of an outline.
    assert scores["GunPoint"][3] < 0.7
    assert scores["JapaneseVowels"][3] > 0.95


def check_matches(lines):
    about, *matches, exact = lines
    assert about.startswith("709 windows")
    assert len(matches) == 5
    starts = [re.match(r"(\d{4})-(\d\d)", line).groups() for line in matches]
    # A window of 24 months has two Decembers.
    seen = [{int(year), int(year) + 1} & EL_NINO for year, _ in starts]
    assert sum(map(bool, seen)) >= 3
    assert 1982 in seen[0]
    cosines = [figures(line)[0] for line in matches]
    assert cosines == sorted(cosines, reverse=True)
    assert 95 <= int(exact.split()[0]) <= 100


def test_an_el_nino_finds_others(url):
    check_matches(printed("search.py", url))


def test_an_el_nino_finds_others_in_postgres(url, postgres):
    check_matches(printed("search.py", url, "--postgres", postgres))


def test_the_distance_to_normal_windows_shows_faults_that_statistics_miss(url):
    lines = printed("anomaly.py", url)
    assert len(lines) == 18
    for name, table in [("BasicMotions", lines[:9]), ("JapaneseVowels", lines[9:])]:
        heading, *rows = table
        assert heading.startswith(name)
        found = {row[:16].strip(): figures(row) for row in rows}
        assert len(found) == 8
        embedding, statistics, _ = zip(*found.values(), strict=True)
        assert min(embedding) > 0.5
        assert sum(embedding) / 8 > 0.68
        # The order of the timesteps is not in them; embeddings know it, and what is stuck.
        assert abs(found["reversed time"][1] - 0.5) < 0.06
        for fault in ("reversed time", "stuck sensor"):
            assert found[fault][0] > found[fault][1] + 0.05
        # But they see peaks and levels better.
        assert found["spikes"][1] > 0.8
        assert sum(statistics) / 8 > 0.65
