"""What is checked by hand, before a commit and on GitHub is one thing."""

import re
import tomllib

import pytest
import yaml

from tests.builders import ROOT
from tests.end_to_end.test_page import BROWSERS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
FILE = re.compile(r"(?<![\w*/.-])[\w.-]+(?:/[\w.-]+)*\.(?:toml|yml|md|py|proto|txt)\b")


def recipe(target):
    """The commands of one target of the Makefile."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.replace("$(BIN)", ".venv/bin") for line in re.findall(r"\t(.*)\n", lines)]


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_before_a_commit_is_checked_what_is_checked_before_the_tests():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        # On all files, whichever were changed, as `make test` does.
        assert hook["always_run"]
        assert not hook["pass_filenames"]
    *checks, tests = recipe("test")
    assert "pytest" in tests
    assert [hook["entry"] for hook in repository["hooks"]] == checks


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_name_files_and_targets_that_exist(path):
    for step in steps(yaml.safe_load(path.read_text())):
        for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
            assert recipe(target)
        package = step.get("with", {}).get("package-dir")
        assert package is None or (ROOT / package / "pyproject.toml").is_file()
    missing = [name for name in FILE.findall(path.read_text()) if not (ROOT / name).is_file()]
    assert not missing


def test_workflows_cover_the_pythons_and_machines_that_the_project_names():
    named = [text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"] if "::" in text]
    pythons = [text for text in named if re.fullmatch(r"3\.\d+", text)]
    assert workflow("tests")["jobs"]["test"]["strategy"]["matrix"]["python"] == pythons
    built = PROJECT["tool"]["cibuildwheel"]
    assert built["build"].split() == [f"cp{python.replace('.', '')}-*" for python in pythons]
    machines = workflow("wheels")["jobs"]["wheels"]["strategy"]["matrix"]["include"]
    assert [machine["architecture"] for machine in machines] == built["linux"]["archs"]


def test_the_tests_on_github_run_the_arm_kernels_and_pgvector():
    commands = "\n".join(step.get("run", "") for step in steps(workflow("tests")))
    needed = {"g++-aarch64-linux-gnu", "qemu-user-static", "postgresql-16-pgvector"}
    assert needed <= set(commands.split())


def test_the_tests_on_github_have_a_browser_for_the_page():
    commands = "\n".join(step.get("run", "") for step in steps(workflow("tests")))
    assert set(BROWSERS) & set(commands.split())


def test_only_a_tag_publishes_and_only_what_publishes_may_ask_for_an_identity():
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text())
        assert content["permissions"] == {"contents": "read"}
        for name, job in content["jobs"].items():
            publishes = any("pypi-publish" in step.get("uses", "") for step in job["steps"])
            assert publishes == (name == "publish")
            assert publishes == ("id-token" in job.get("permissions", {}))
            assert publishes == (job.get("if") == "startsWith(github.ref, 'refs/tags/v')")
