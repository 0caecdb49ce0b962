"""The engine without Python: under sanitizers, and on ARM where an emulator is installed."""

import os
import shutil
import subprocess

import pytest

from tests.builders import ROOT

SOURCE = ROOT / "model" / "engine" / "native"
CASES = "12"


def build(folder, *options):
    configure = ["cmake", "-S", str(SOURCE), "-B", str(folder), "-DTRITSERVE_TESTS=ON", *options]
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", "2"]):
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
    return folder / "one_answer"


def answers(*command, **environment):
    run = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | environment
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == int(CASES)
    return lines, run.stderr.split()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What this machine answers, checked by the address and undefined-behavior sanitizers."""
    # Optimised further, the instrumented kernels take minutes to compile and find no more.
    flags = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    program = build(
        tmp_path_factory.mktemp("sanitized"),
        "-DCMAKE_BUILD_TYPE=Debug",
        f"-DCMAKE_CXX_FLAGS_DEBUG={flags}",
    )
    return answers(str(program), CASES)


def test_every_instruction_set_is_clean_and_gives_one_answer(here):
    from tritserve.model.engine import _native  # noqa: PLC0415

    _, kernels = here
    assert kernels == _native.supported()


def test_arm_gives_the_same_bytes(here, tmp_path):
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if not compiler or not emulator:
        pytest.skip("install g++-aarch64-linux-gnu and qemu-user-static to run the ARM kernels")
    program = build(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    lines, kernels = answers(emulator, str(program), CASES)
    assert kernels == ["neon_dotprod", "scalar"]
    assert lines == here[0]
