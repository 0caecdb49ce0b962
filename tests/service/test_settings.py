"""What an operator sets, and what is found in the environment beside it."""

import pytest

from model.engine import EngineError
from service.settings import SettingsError, read_settings
from tests.service.live import ask

# What Kubernetes tells pods of a Service named tritserve.
SERVICE_LINKS = {
    "TRITSERVE_SERVICE_HOST": "10.0.0.1",
    "TRITSERVE_SERVICE_PORT": "8000",
    "TRITSERVE_SERVICE_PORT_HTTP_1": "8000",
    "TRITSERVE_PORT": "tcp://10.0.0.1:8000",
    "TRITSERVE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "TRITSERVE_PORT_8000_TCP_PROTO": "tcp",
    "TRITSERVE_PORT_8000_TCP_PORT": "8000",
    "TRITSERVE_PORT_8000_TCP_ADDR": "10.0.0.1",
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


def test_what_kubernetes_tells_of_a_service_is_no_setting(environment):
    environment(SERVICE_LINKS)
    assert read_settings().port == 8000
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

    monkeypatch.setattr("service.embedding.load_engine", load)
    ask(engine, talk, admin_key="administrator", reload_others=lambda: told.append(1))
    # They read keys and the certificate again.
    assert told == [1]


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
