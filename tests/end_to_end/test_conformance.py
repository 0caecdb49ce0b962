"""The live service keeps to its own OpenAPI description, whatever it is sent."""

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

from tests.builders import random_packed
from tests.end_to_end.server import log_lines, serving
from tritserve.model.engine.engine import Engine
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


def operations():
    chosen = Settings(admin_key=ADMIN_KEY)
    app = create_app(chosen, Engine.load(chosen.model))
    schema = schemathesis.openapi.from_dict(app.openapi())
    for found in schema.get_all_operations():
        operation = found.ok()
        yield pytest.param(operation, id=operation.label)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conformance")
    # As many features as the examples have, which are those of the embedded model.
    model, log = folder / "model.safetensors", folder / "log"
    random_packed(model, embed_dim=12, window_size=8)
    environment = {"TRITSERVE_ADMIN_KEY": ADMIN_KEY}
    with serving("--model", model, log=log, environment=environment) as (url, _):
        yield url
    lines = log_lines(log)
    answered = {(line["route"], line["status"]) for line in lines if line["event"] == "request"}
    assert {("/embed", 200), ("/embed", 422), ("/v2/infer", 200), ("/v2/infer", 404)} <= answered
    assert not [line for line in lines if line["level"] == "error"]


@pytest.mark.parametrize("operation", list(operations()))
def test_every_answer_is_declared(operation, url):
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
        case.call_and_validate(base_url=url, checks=CHECKS)

    check()
