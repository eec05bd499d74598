"""The server does what its OpenAPI document says, whatever is sent to it: no failure, every answer of the form described.

schemathesis makes the requests from the document itself, valid ones and broken ones.
"""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from schemathesis.config import GenerationConfig, ProjectConfig, SchemathesisConfig

from tests.serve.server import make_model, served

assert GenerationConfig, ProjectConfig


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(make_model(tmp_path_factory.mktemp("table"), sequence_len=64)) as server:
        yield server


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_document_says(case):
    case.call_and_validate()


def test_the_document_describes_every_route_and_no_other_host(server):
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/health", "/ready", "/metrics",
    }  # fmt: skip
    assert "servers" not in document
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
    for path in ("/docs", "/redoc"):
        assert httpx.get(f"{server.url}{path}").status_code == 404
    assert checks
    assert SchemathesisConfig
