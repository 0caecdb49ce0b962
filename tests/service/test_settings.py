"""What an operator sets, and what is found in the environment beside it."""

import asyncio
import socket

import pytest

from tests.service.live import ask
from tritserve.model.engine.engine import Engine, EngineError
from tritserve.service.http.listening import listen
from tritserve.service.settings import SettingsError, read_settings

# What Kubernetes tells pods of the Services tritserve and tritserve-grpc.
SERVICE_LINKS = {
    "TRITSERVE_SERVICE_HOST": "10.0.0.1",
    "TRITSERVE_SERVICE_PORT": "8000",
    "TRITSERVE_SERVICE_PORT_HTTP_1": "8000",
    "TRITSERVE_PORT": "tcp://10.0.0.1:8000",
    "TRITSERVE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "TRITSERVE_PORT_8000_TCP_PROTO": "tcp",
    "TRITSERVE_PORT_8000_TCP_PORT": "8000",
    "TRITSERVE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "TRITSERVE_GRPC_SERVICE_HOST": "10.0.0.3",
    "TRITSERVE_GRPC_SERVICE_PORT": "8001",
    "TRITSERVE_GRPC_PORT": "tcp://10.0.0.3:8001",
    "TRITSERVE_GRPC_PORT_8001_TCP": "tcp://10.0.0.3:8001",
    "TRITSERVE_GRPC_PORT_8001_TCP_ADDR": "10.0.0.3",
}


@pytest.fixture
def environment(monkeypatch):
    def set_all(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def test_unknown_variables_are_an_error(environment):
    environment({"TRITSERVE_PORT": "7", "TRITSERVE_ISA": "scalar"})
    assert read_settings().port == 7
    assert read_settings(port=8).port == 8
    environment({"TRITSERVE_PORT": "many"})
    with pytest.raises(SettingsError, match="settings: port: "):
        read_settings()
    environment({"TRITSERVE_PROT": "7"})
    with pytest.raises(SettingsError, match=r"TRITSERVE_PROT: no such setting; there are .*PORT"):
        read_settings()


@pytest.mark.parametrize("name", ["tritserve_port", "Tritserve_Port", "tritserve_isa"])
def test_names_in_other_letters_are_no_settings(environment, name):
    environment({name: "7"})
    with pytest.raises(SettingsError, match=f"{name}: no such setting"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOST", ""),
        ("HOST", "  "),
        ("HOST", "unix:"),
        ("HOST", "unix:here"),
        ("HOST", "a..b"),
        ("HOST", f"{'a' * 64}.invalid"),
        ("HOST", "a\udcff"),
        ("SEND_SECONDS", "inf"),
        ("DRAIN_SECONDS", "1e9"),
        ("STUCK_SECONDS", "nan"),
        ("DRAIN_DELAY_SECONDS", "inf"),
        ("GRPC_MESSAGE_BYTES", "4294967296"),
        ("MAX_HEADER_BYTES", "4294967296"),
        ("MAX_CONNECTIONS", "4294967296"),
    ],
)
def test_what_is_out_of_range_is_an_error(environment, name, value):
    environment({f"TRITSERVE_{name}": value})
    with pytest.raises(SettingsError, match=f"settings: {name.lower()}: "):
        read_settings()


def test_two_colons_are_every_address(environment):
    environment({"TRITSERVE_HOST": "::"})
    (listener,) = listen(read_settings(), 0)
    with listener:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, listener.getsockname()[1]), timeout=5).close()


def test_what_kubernetes_tells_of_a_service_is_no_setting(environment):
    environment(SERVICE_LINKS)
    assert read_settings().port == 8000
    assert read_settings().grpc_port is None
    assert read_settings(port=7).port == 7
    environment({"TRITSERVE_PORT": "tcp://[fd00::1]:8000"})
    assert read_settings().port == 8000
    environment({"TRITSERVE_PORT": "9000"})
    assert read_settings().port == 9000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRITSERVE_SERVICE_HOSTS", "10.0.0.1"),
        ("TRITSERVE_SERVICE_PORTS", "8000"),
        ("TRITSERVE_SERVICE_PORT_", "8000"),
        ("TRITSERVE_PORT_TCP", "tcp://10.0.0.1:8000"),
        ("TRITSERVE_PORT_8000_TCP_HOST", "10.0.0.1"),
        ("TRITSERVE_PORT_8000", "10.0.0.1"),
        ("TRITSERVE_PORT", "tcp://10.0.0.1"),
        ("TRITSERVE_PORT", "http://10.0.0.1:8000"),
        ("TRITSERVE_GRPC_PORT", "http://10.0.0.1:8001"),
        ("TRITSERVE_WORKERS", "tcp://10.0.0.1:8000"),
    ],
)
def test_nothing_else_is_taken_for_kubernetes(environment, name, value):
    environment(SERVICE_LINKS | {name: value})
    with pytest.raises(SettingsError, match=r"no such setting|settings: \w+: "):
        read_settings()


def test_an_admin_key_goes_without_the_spaces_around_it(environment, engine):
    environment({"TRITSERVE_ADMIN_KEY": " administrator \n"})

    async def talk(client):
        headers = {"Authorization": "Bearer administrator"}
        # The model is gone; the key was right.
        assert (await client.post("/admin/reload", headers=headers)).status_code == 409

    ask(engine, talk, model="/nothing")


@pytest.mark.parametrize("error", [OSError("gone"), EngineError("no more threads")])
def test_other_workers_reload_too_where_the_model_cannot_be_had(engine, monkeypatch, error):
    told = []

    def load(_):
        raise error

    async def talk(client):
        headers = {"Authorization": "Bearer administrator"}
        answer = await client.post("/admin/reload", headers=headers)
        assert answer.status_code == 409
        assert str(error) in answer.json()["error"]["message"]

    monkeypatch.setattr("tritserve.service.embedding.service.load_engine", load)
    ask(engine, talk, admin_key="administrator", reload_others=lambda: told.append(1))
    # They read keys and the certificate again.
    assert told == [1]


def test_a_model_that_does_not_fit_into_memory_leaves_the_old_one(engine, monkeypatch):
    def load(*_, **__):
        raise MemoryError

    async def talk(client):
        headers = {"Authorization": "Bearer administrator"}
        answer = await client.post("/admin/reload", headers=headers)
        assert answer.status_code == 409
        assert "does not fit into memory" in answer.json()["error"]["message"]
        assert (await client.get("/health/ready")).status_code == 200

    monkeypatch.setattr(Engine, "load", load)
    ask(engine, talk, admin_key="administrator")


def test_keys_that_cannot_be_read_again_are_told_of(engine, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("first-secret")

    async def talk(client):
        keys.write_text("two words")
        headers = {"Authorization": "Bearer administrator"}
        answer = await client.post("/admin/reload", headers=headers)
        assert answer.status_code == 409
        assert answer.json()["error"]["message"].startswith(
            "the new model is served, but what was read before goes on: an API key holds a space"
        )
        with_key = {"Authorization": "Bearer first-secret"}
        assert (await client.get("/info", headers=with_key)).status_code == 200

    ask(engine, talk, admin_key="administrator", api_keys_file=keys)


def test_what_was_accepted_before_a_reload_has_all_the_time_it_needs(engine):
    body = b'{"sequences": [[[%s]]]}' % b",".join([b"0.5"] * engine.model.config.embed_dim)

    async def talk(client):
        reloaded = asyncio.Event()

        async def pieces():
            yield body[:9]
            await reloaded.wait()
            await asyncio.sleep(0.3)
            yield body[9:]

        headers = {"Content-Type": "application/json"}
        pending = asyncio.create_task(client.post("/embed", content=pieces(), headers=headers))
        await asyncio.sleep(0.1)
        reload = {"Authorization": "Bearer administrator"}
        assert (await client.post("/admin/reload", headers=reload)).status_code == 200
        reloaded.set()
        assert (await pending).json()["model"]["name"] == engine.model.name

    ask(engine, talk, admin_key="administrator", drain_seconds=0.1)


@pytest.mark.parametrize("key", ["clé-secrète", "two  words", "secret\tkey", "secret\x7fkey"])
def test_an_admin_key_that_no_header_can_carry_is_an_error(environment, key):
    environment({"TRITSERVE_ADMIN_KEY": key})
    with pytest.raises(SettingsError, match="settings: admin_key: ") as caught:
        read_settings()
    assert "a space, or a letter that a header cannot carry" in str(caught.value)
    assert key not in str(caught.value)


@pytest.mark.parametrize("key", ["", "       ", "short   "])
def test_an_admin_key_has_at_least_8_letters(environment, key):
    environment({"TRITSERVE_ADMIN_KEY": key})
    with pytest.raises(SettingsError, match=r"settings: admin_key: .* 8 "):
        read_settings()


def test_another_service_of_kubernetes_is_an_error_that_says_what_helps(environment):
    environment({"TRITSERVE_METRICS_SERVICE_HOST": "10.0.0.2"})
    with pytest.raises(SettingsError, match="enableServiceLinks: false"):
        read_settings()
