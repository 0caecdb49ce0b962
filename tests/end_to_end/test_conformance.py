"""The live service keeps to its own OpenAPI description, whatever it is sent."""

from contextlib import ExitStack, contextmanager

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.builders import CHANNELS, JAPANESE_VOWELS, random_packed
from tests.end_to_end.server import log_lines, serving
from tritserve.model.engine.engine import Engine
from tritserve.model.pretrained import DEFAULT_MODEL
from tritserve.service.app import create_app
from tritserve.service.settings import Settings

ADMIN_KEY = "administrator"


def never_our_fault(_, response, case):
    # A deadline of a millisecond, or of a microsecond in the body, may well pass.
    asked = (case.headers or {}).get("X-Request-Timeout-Ms") or "timeout" in str(case.body)
    assert response.status_code < 500 or (response.status_code == 504 and asked), response.text


CHECKS = [
    never_our_fault,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CASES = {"POST": 400, "GET": 30}
# What is served: as many features as the examples have, and any number.
MODELS = {"features": {"embed_dim": 12, "window_size": 8}, "channels": CHANNELS}
# Whose description the requests are made from.
DESCRIBED = {"features": JAPANESE_VOWELS, "channels": DEFAULT_MODEL}
# What a model that sees channels one by one answers in its own way.
BY_CHANNEL = {"/embed", "/v2/models/{name}/infer"}


def operations():
    for model, embedded in DESCRIBED.items():
        app = create_app(Settings(admin_key=ADMIN_KEY), Engine.load(embedded))
        for found in schemathesis.openapi.from_dict(app.openapi()).get_all_operations():
            operation = found.ok()
            if model == "features" or operation.path in BY_CHANNEL:
                yield pytest.param(operation, model, id=f"{operation.label}, {model}")


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """Where each of the models is served."""
    folder = tmp_path_factory.mktemp("conformance")
    with ExitStack() as servers:
        yield {name: servers.enter_context(answering(folder / name, name)) for name in MODELS}


@contextmanager
def answering(folder, name):
    folder.mkdir()
    model, log = folder / "model.safetensors", folder / "log"
    random_packed(model, **MODELS[name])
    environment = {"TRITSERVE_ADMIN_KEY": ADMIN_KEY}
    with serving("--model", model, log=log, environment=environment) as (url, _):
        yield url
    lines = log_lines(log)
    answered = {(line["route"], line["status"]) for line in lines if line["event"] == "request"}
    assert {("/embed", 200), ("/embed", 422), ("/v2/infer", 200), ("/v2/infer", 404)} <= answered
    assert not [line for line in lines if line["level"] == "error"]


@pytest.mark.parametrize(("operation", "model"), list(operations()))
def test_every_answer_is_declared(operation, model, urls):
    modes = schemathesis.GenerationMode
    strategy = operation.as_strategy(generation_mode=modes.POSITIVE) | operation.as_strategy(
        generation_mode=modes.NEGATIVE
    )

    @settings(
        max_examples=CASES[operation.method.upper()],
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, existing=st.sampled_from([True, True, True, False]))
    def check(case, existing):
        if existing:
            known = {"name": "random", "model_version": "1"}
            case.path_parameters |= {k: known[k] for k in case.path_parameters}
            # The body is not compressed, whatever the header says.
            case.headers.pop("Content-Encoding", None)
        case.call_and_validate(base_url=urls[model], checks=CHECKS)

    check()
