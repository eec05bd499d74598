"""The server does what its OpenAPI document says, whatever is sent to it: no failure, every answer of the form described.

schemathesis makes the requests from the document itself, valid ones and broken ones.
"""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serve.server import make_model, served

BEYOND_THE_SCHEMA = ("messages", "prompt", "top_logprobs")  # whose turn it is, what fits, one field without another
OPERATIONS = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "GET /health",
    "GET /ready",
    "GET /metrics",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(make_model(tmp_path_factory.mktemp("table"), sequence_len=64)) as server:
        yield server


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize(
    ("label", "mode"),
    [(label, mode) for label in OPERATIONS for mode in GenerationMode if mode.is_positive or label.startswith("POST")],
)
def test_every_answer_is_as_the_document_says(document, label, mode):
    (operation,) = (each.ok() for each in document.get_all_operations() if each.ok().label == label)

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=60 if label.startswith("POST") else 10, deadline=None, suppress_health_check=list(HealthCheck)
    )
    def answers(case):
        response = case.call()
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        if mode.is_positive and response.status_code == 400:
            assert response.json()["error"]["param"].startswith(BEYOND_THE_SCHEMA), response.text

    answers()


def test_the_document_describes_every_route_and_no_other_host(server):
    document = httpx.get(f"{server.url}/openapi.json").json()
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == set(OPERATIONS)
    assert "servers" not in document
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
    for path in ("/docs", "/redoc"):
        assert httpx.get(f"{server.url}{path}").status_code == 404
