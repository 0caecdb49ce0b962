"""Imports go down the floors, never up or across; nothing that serves imports torch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

FLOORS = {
    "model": 0,
    "model.errors": 0,
    "model.text": 0,
    "model.environment": 0,
    "model.config": 1,
    "model.pretrained": 1,
    "model.sequences": 1,
    "model.tensors": 1,
    "model.replace": 1,
    "model.memory": 1,
    "model.run_folder": 1,
    "model.golden": 2,
    "model.trits": 2,
    "model.layout": 2,
    "model.bitlinear": 2,
    "model.recipe": 2,
    "model.data": 2,
    "model.augment": 3,
    "model.objective": 3,
    "model.standardization": 3,
    "model.value_check": 2,
    "model.packed": 3,
    "model.bitnet": 3,
    "model.probe": 3,
    "model.parts": 4,
    "model.reference": 4,
    "model.edifice": 4,
    "model.checkpoint": 4,
    "model.learner": 4,
    "model.monitor": 3,
    "model.training_log": 2,
    "model.training_state": 3,
    "model.plot": 3,
    "model.engine": 5,
    "model.export": 5,
    "model.train": 5,
    "model.rule": 4,
    "service": 6,
    "service.errors": 7,
    "service.settings": 7,
    "service.early_signals": 7,
    "service.open_files": 8,
    "service.request_parser": 7,
    "service.describe": 7,
    "service.files": 7,
    "service.health": 8,
    "service.heads": 7,
    "service.media": 8,
    "service.npy": 8,
    "service.options": 8,
    "service.body": 8,
    "service.jobs": 8,
    "service.engine_thread": 7,
    "service.json_pieces": 8,
    "service.json_numbers": 7,
    "service.batcher": 9,
    "service.json_body": 9,
    "service.wire": 10,
    "service.metrics": 10,
    "service.served": 11,
    "service.accepted": 12,
    "service.credentials": 12,
    "service.embedding": 13,
    "service.security": 9,
    "service.compression": 8,
    "service.oip.tensors": 11,
    "service.oip.rest_json": 12,
    "service.oip": 7,
    "service.oip.rest": 13,
    "service.oip.grpc_messages": 7,
    "service.oip.grpc_form": 12,
    "service.oip.grpc_parts": 8,
    "service.oip.grpc_reading": 8,
    "service.oip.grpc_extra": 16,
    "service.oip.grpc_calls": 14,
    "service.oip.grpc_server": 15,
    "service.examples": 11,
    "service.forms": 11,
    "service.oip.routes": 15,
    "service.schemas": 9,
    "service.openapi": 14,
    "service.oip.openapi": 14,
    "service.answers": 8,
    "service.notes": 7,
    "service.paths": 7,
    "service.observed": 11,
    "service.logs": 9,
    "service.tracing": 10,
    "service.docs": 8,
    "service.direct": 9,
    "service.incoming": 7,
    "service.bugs": 9,
    "service.connections": 11,
    "service.tls": 11,
    "service.replies": 7,
    "service.exchange": 9,
    "service.client": 10,
    "service.app": 17,
    "service.server": 18,
    "service.supervisor": 19,
    "service.arguments": 7,
    "service.offline": 11,
    "service.cli": 20,
}


def modules():
    for package in ("model", "service"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path):
    """Every module of ours that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FLOORS else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in {"model", "service"})


def test_every_module_has_a_floor():
    assert {name for name, _ in modules()} == set(FLOORS)


def test_imports_go_down():
    wrong = [
        f"{name} (floor {FLOORS[name]}) imports {other} (floor {FLOORS.get(other)})"
        for name, path in modules()
        for other in imports(path)
        if FLOORS.get(other, 99) >= FLOORS[name]
    ]
    assert not wrong


def test_nothing_that_serves_imports_torch():
    serving = [name for name in FLOORS if name.startswith("service.")] + ["model.engine"]
    code = (
        f"import sys, {', '.join(serving)}\n"
        "print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_asking_for_health_imports_little():
    """Health checks of containers run it every few seconds, in a second or two."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "service.cli", "health"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TRITSERVE_PORT": "1"},
    )
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "service.health" in imported
    assert not imported & {"numpy", "model.engine", "fastapi", "uvicorn", "httpx", "tqdm"}


def test_files_stay_small():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in [*(ROOT / "model").rglob("*.py"), *(ROOT / "service").rglob("*.py")]
        if (lines := len(path.read_text().splitlines())) > 320
    }
    assert not long
