"""A real server process as docker-compose.yml runs it: nothing can be written, nowhere."""

import re
import shutil
import ssl
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton
import yaml

from tests.builders import JAPANESE_VOWELS, ROOT
from tests.end_to_end.server import log_lines, serving
from tests.end_to_end.test_connections import certificate
from tests.end_to_end.test_triton_client import MODEL, free_port

READ_ONLY = (Path(__file__).with_name("read_only.py"),)
KEY = {"Authorization": "Bearer first-secret"}
ONE_PROCESS = {
    "TRITSERVE_MODEL": str(JAPANESE_VOWELS),
    "TRITSERVE_HOST": "0.0.0.0",
    "TRITSERVE_THREADS": "1",
    "TRITSERVE_QUEUE_TIMESTEPS": "50000",
    "TRITSERVE_MAX_REQUEST_TIMESTEPS": "10000",
    "TRITSERVE_MAX_BODY_BYTES": "1000000",
    "TRITSERVE_MAX_BODIES_BYTES": "10000000",
    "TRITSERVE_MAX_CONNECTIONS": "100",
    "TRITSERVE_DRAIN_SECONDS": "5",
    "TRITSERVE_DRAIN_DELAY_SECONDS": "0.1",
    "TRITSERVE_CORS_ORIGINS": "https://app.example",
    "TRITSERVE_HEADER_SECONDS": "5",
    "TRITSERVE_BODY_SECONDS": "5",
    "TRITSERVE_KEEP_ALIVE_SECONDS": "20",
    "TRITSERVE_LOG_LEVEL": "debug",
    "TRITSERVE_LOG_FORMAT": "json",
    "TRITSERVE_ISA": "scalar",
    "TRITSERVE_ADMIN_KEY": "administrator",
    "TRITSERVE_API_KEYS": "first-secret",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
}


def several_workers(folder):
    return {
        "TRITSERVE_WORKERS": "2",
        "TRITSERVE_API_KEYS_FILE": str(folder / "keys"),
        "TRITSERVE_SSL_CERTFILE": str(folder / "cert.pem"),
        "TRITSERVE_SSL_KEYFILE": str(folder / "key.pem"),
        "TRITSERVE_GRPC_PORT": str(free_port()),
        "TRITSERVE_GRPC_MESSAGE_BYTES": "1000000",
    }


def check(url, verify=True):
    with httpx.Client(base_url=url, headers=KEY, verify=verify) as client:
        body = {"sequences": [[[0.5] * 12]]}
        assert client.post("/embed", json=body).status_code == 200
        assert "tritserve_requests_total" in client.get("/metrics").text


def test_one_process_needs_no_folder_that_can_be_written(tmp_path):
    log = tmp_path / "log"
    with serving(log=log, environment=ONE_PROCESS, program=READ_ONLY) as (url, process):
        check(url)
        process.terminate()
        assert process.wait(20) == 0
    assert "tritserve-metrics" not in log.read_text()


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_several_workers_need_none_either_but_do_not_count_together(tmp_path):
    log, workers = tmp_path / "log", several_workers(tmp_path)
    (tmp_path / "keys").write_text("first-secret\n")
    cert, _ = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=cert)
    settings = {"environment": workers, "program": READ_ONLY, "verify": trust}
    with serving("--model", JAPANESE_VOWELS, log=log, **settings) as (url, process):
        check(url, trust)
        where = f"127.0.0.1:{workers['TRITSERVE_GRPC_PORT']}"
        with triton.InferenceServerClient(where, ssl=True, root_certificates=str(cert)) as client:
            assert client.is_model_ready(MODEL, headers={"authorization": KEY["Authorization"]})
        process.terminate()
        assert process.wait(20) == 0, log.read_text()
    warnings = [line["event"] for line in log_lines(log) if line["level"] == "warning"]
    (told,) = [event for event in warnings if "do not count together" in event]
    assert "mount a tmpfs at /tmp" in told


def test_every_setting_that_is_offered_is_started_above(tmp_path):
    offered = set(re.findall(r"\b(?:TRITSERVE|OTEL)_[A-Z_]+\b", (ROOT / "README.md").read_text()))
    compose = (ROOT / "docker-compose.yml").read_text()
    offered |= set(re.findall(r"\bTRITSERVE_[A-Z_]+\b", compose))
    offered -= {"TRITSERVE_", "TRITSERVE_PORT"}
    assert offered <= set(ONE_PROCESS) | set(several_workers(tmp_path))


def test_compose_gives_workers_a_folder_in_memory():
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["tritserve"]
    assert service["read_only"]
    assert any(mount.partition(":")[0] == "/tmp" for mount in service["tmpfs"])
