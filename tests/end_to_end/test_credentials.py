"""Certificates and API keys that are replaced while a real server process runs."""

import shutil
import signal
import ssl

import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.builders import JAPANESE_VOWELS
from tests.end_to_end.server import address, serving, wait_until_served
from tests.end_to_end.test_connections import certificate
from tests.end_to_end.test_triton_client import MODEL, free_port

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="makes certificates with it")
# With several workers, each connection may meet another one.
TRIES = 8


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_reads_keys_and_certificate_again(tmp_path, workers):
    cert, key = certificate(tmp_path)
    keys, log, grpc_port = tmp_path / "keys", tmp_path / "log", free_port()
    keys.write_text("first-secret\n")
    environment = {
        "TRITSERVE_SSL_CERTFILE": str(cert),
        "TRITSERVE_SSL_KEYFILE": str(key),
        "TRITSERVE_API_KEYS_FILE": str(keys),
        "TRITSERVE_GRPC_PORT": str(grpc_port),
    }
    first = ssl.create_default_context(cafile=cert)
    arguments = "--workers", workers, "--model", JAPANESE_VOWELS
    with serving(*arguments, log=log, environment=environment, verify=first) as (url, process):

        def shown():
            return {ssl.get_server_certificate(address(url)) for _ in range(TRIES)}

        def statuses(secret):
            trust = ssl.create_default_context(cafile=cert)
            headers = bearer(secret)
            return {
                httpx.get(f"{url}/info", headers=headers, verify=trust).status_code
                for _ in range(TRIES)
            }

        def grpc_ready(trusted, secret):
            where = f"127.0.0.1:{grpc_port}"
            for _ in range(TRIES):
                with triton.InferenceServerClient(
                    where, ssl=True, root_certificates=str(trusted)
                ) as client:
                    assert client.is_model_ready(MODEL, headers=bearer(secret))

        wait_until_served(log, int(workers))
        grpc_ready(cert, "first-secret")
        assert statuses("first-secret") == {200}
        assert statuses("second-secret") == {401}

        old = shutil.copy(cert, tmp_path / "old.pem")
        certificate(tmp_path)
        keys.write_text("second-secret\n")
        process.send_signal(signal.SIGHUP)
        wait_until_served(log, 2 * int(workers))
        assert shown() == {cert.read_text()}
        assert statuses("second-secret") == {200}
        assert statuses("first-secret") == {401}
        grpc_ready(cert, "second-secret")
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            grpc_ready(cert, "first-secret")
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            grpc_ready(old, "second-secret")

        good = shutil.copy(cert, tmp_path / "good.pem")
        # As in the midst of replacing both: the certificate is of another key.
        shutil.copy(old, cert)
        keys.write_text("")
        process.send_signal(signal.SIGHUP)
        wait_until_served(log, 3 * int(workers))
        assert log.read_text().count("what was read before goes on") == 2 * int(workers)
        shutil.copy(good, cert)
        assert shown() == {good.read_text()}
        assert statuses("second-secret") == {200}
        grpc_ready(good, "second-secret")
        process.terminate()
        assert process.wait(20) == 0
