"""Nothing that a client does holds the server: sizes, times, the queue, clients that go away, keys, foreign pages.

Not covered: which answer comes (test_openai_client.py).
"""

import http.client
import json
import socket
import time

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nanochat.serve.limits import Limits
from nanochat.serve.replica import Placement
from nanochat.serve.run import Options
from tests.serve.server import ANSWER, make_model, served, until

LONG = {"prompt": "a", "max_tokens": 4000, "temperature": 0, "stream": True}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A context that takes a while to fill."""
    return make_model(tmp_path_factory.mktemp("endless"), sequence_len=4096)


@pytest.fixture(scope="module")
def server(endless):
    with served(endless, limits=Limits(body_bytes=20_000, body_seconds=1.0, waiting=4)) as server:
        yield server


@pytest.fixture
def http_client(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def error(response, status):
    """The error's body, which must be of OpenAI's form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def post(client, content, path="/v1/chat/completions", kind="application/json"):
    return client.post(path, content=content, headers={"content-type": kind} if kind else {})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 5000, b"9" * 5000, b'{"messages": NaN}', b"null", b"[]"]
)
def test_what_is_no_request_is_refused(http_client, content):
    assert error(post(http_client, content), 400)["type"] == "invalid_request_error"


def test_other_kinds_of_content_are_refused_with_the_remedy(http_client):
    for kind in ("application/x-www-form-urlencoded", "text/plain", None):
        refused = error(post(http_client, json.dumps(CHAT), kind=kind), 415)
        assert "Content-Type: application/json" in refused["message"]
    assert post(http_client, json.dumps(CHAT), kind="application/json; charset=utf-8").status_code == 200


def test_half_a_surrogate_pair_costs_a_character_and_deep_nesting_is_refused(http_client):
    assert post(http_client, rb'{"messages": [{"role": "user", "content": "\ud800"}]}').status_code == 200
    assert error(post(http_client, rb'{"model": "\ud800", "messages": [{"role": "user", "content": "x"}]}'), 404)
    deep = b'{"messages": ' + b'{"x": ' * 2500 + b"1" + b"}" * 2501
    assert error(post(http_client, deep), 400)


def test_unknown_routes_and_methods_are_errors_of_the_same_form(http_client):
    assert error(http_client.get("/v2/nothing"), 404)["code"] == "unknown_url"
    refused = http_client.get("/v1/chat/completions")
    assert error(refused, 405)["code"] == "method_not_allowed"
    assert refused.headers["allow"] == "POST"
    assert error(http_client.get("/v1/models/other"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize("times", [1.1, 100])
def test_a_large_body_is_refused_also_without_its_length(server, http_client, times):
    content = json.dumps(CHAT | {"filler": "x" * int(20_000 * times)}).encode()
    assert error(post(http_client, iter([content[:1000], content[1000:]])), 413)["code"] == "body_too_large"
    if times < 8:  # beyond that nobody reads on
        assert error(post(http_client, content), 413)["code"] == "body_too_large"
    else:
        said = server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_arrive_is_not_waited_for(server):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    assert server.raw(head + b"{").startswith(b"HTTP/1.1 408")


def test_a_foreign_name_of_the_host_is_refused(http_client):
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", ""):
        assert error(http_client.get("/v1/models", headers={"host": host}), 403)["code"] == "host_not_allowed"
    for host in ("localhost", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"):
        assert http_client.get("/v1/models", headers={"host": host}).status_code == 200


def test_answers_keep_browsers_from_guessing_and_other_pages_out(http_client):
    for path in ("/health", "/v1/models", "/nothing"):
        response = http_client.get(path, headers={"origin": "http://evil.example"})
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
    assert "http" not in http_client.get("/openapi.json").text.replace("http_", "").replace("https://json-schema", "")


def test_a_client_that_goes_away_frees_its_rows(server):
    before = server.serving.metrics.counters["clients_gone_total"].get((), 0)
    for stream in (True, False):
        connection = server.begin("/v1/completions", LONG | {"stream": stream, "n": 3})
        if stream:
            connection.recv(100)
        until(lambda: server.rows() == 3)
        connection.close()
        until(lambda: server.rows() == 0)
    assert server.serving.metrics.counters["clients_gone_total"][()] == before + 2
    assert server.serving.tickets == []


def test_a_client_that_went_away_while_it_waited_is_not_answered(endless):
    with served(endless, placement=Placement(rows=4), limits=Limits(waiting=8)) as server:
        busy = [server.begin("/v1/completions", LONG) for _ in range(12)]  # four rows, and eight that are ahead
        until(lambda: server.rows() == 12)
        waiting = server.begin("/v1/completions", LONG)
        until(lambda: len(server.serving.current.waiting) == 1)
        waiting.close()
        until(lambda: not server.serving.current.waiting)
        for connection in busy:
            connection.close()
        until(lambda: server.rows() == 0)


def test_a_full_queue_says_when_to_come_back_and_loses_nobody(endless):
    with served(endless, placement=Placement(rows=4), limits=Limits(waiting=2)) as server, server.client() as client:
        busy = [server.begin("/v1/completions", LONG | {"max_tokens": 400}) for _ in range(14)]
        until(lambda: len(server.serving.current.waiting) == 2)
        with pytest.raises(openai.RateLimitError) as raised:
            client.completions.create(model="nanochat", prompt="a")
        assert int(raised.value.response.headers["retry-after"]) >= 1
        assert (raised.value.code, raised.value.type) == ("queue_full", "rate_limit_error")
        for connection in busy:
            said = b""
            while b"[DONE]" not in said:
                more = connection.recv(2**16)
                assert more, said
                said += more
            connection.close()
        assert server.rows() == 0


def test_a_request_ends_in_its_time(endless):
    with served(endless, placement=Placement(rows=4), limits=Limits(request_seconds=0.5)) as server:
        with server.client() as client:
            answer = client.completions.create(model="nanochat", prompt="a", max_tokens=4000, temperature=0)
            said = answer.choices[0].text
            assert 0 < len(said) < 4000
            assert (answer.choices[0].finish_reason, said[:6]) == ("length", "bcabca")
            until(lambda: server.rows() == 0)
        server.do(pause(server))
        with httpx.Client(base_url=server.url, timeout=60) as client:
            late = post(client, json.dumps(LONG), "/v1/completions")
        assert error(late, 503)["code"] == "timeout"
        assert int(late.headers["retry-after"]) >= 1


async def pause(server):
    """From here on no request reaches a replica."""
    server.serving.current.dispatch = lambda: None


def test_a_client_that_does_not_read_holds_nothing_for_ever(endless, monkeypatch):
    monkeypatch.setattr("nanochat.serve.exchange.WRITING_SECONDS", 0.5)
    with served(endless, limits=Limits(request_seconds=1.0)) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.connect(("127.0.0.1", server.port))
        body = json.dumps(LONG | {"n": 16}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: server.rows() == 16)
        until(lambda: server.rows() == 0 and not server.uvicorn.server_state.tasks)
        connection.close()


def test_a_key_may_have_any_letters(endless):
    with served(endless, key="Schlüssel") as server:
        ask = lambda key: httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}".encode()})  # noqa: E731
        assert [ask("Schlüssel").status_code, ask("Schlussel").status_code] == [200, 401]


def test_a_key_opens_and_nothing_else_does(endless):
    with served(endless, key="open sesame", allow_origins=["https://pages.example"]) as server:
        with server.client(api_key="open sesame") as client:
            assert client.chat.completions.create(model="nanochat", **CHAT).choices[0].message.content == ANSWER
        for key in ("open sesam", "open sesame!", ""):
            with server.client(api_key=key or "x") as client, pytest.raises(openai.AuthenticationError) as raised:
                client.models.list()
            assert raised.value.code == "invalid_api_key"
        with httpx.Client(base_url=server.url) as client:
            assert error(client.get("/metrics"), 401)["type"] == "authentication_error"
            foreign = client.get("/metrics", headers=[(b"authorization", b"Bearer open sesam\xe9")])
            assert error(foreign, 401)["code"] == "invalid_api_key"
            assert client.get("/v1/models").headers["www-authenticate"] == "Bearer"
            assert client.get("/health").status_code == client.get("/ready").status_code == 200
            asked = {"origin": "https://pages.example", "access-control-request-method": "POST",
                     "access-control-request-headers": "authorization,content-type"}  # fmt: skip
            allowed = client.options("/v1/chat/completions", headers=asked)
            assert allowed.headers["access-control-allow-origin"] == "https://pages.example"
            refused = client.options("/v1/chat/completions", headers=asked | {"origin": "https://evil.example"})
            assert "access-control-allow-origin" not in refused.headers
            read = client.get("/v1/models", headers={"origin": "https://pages.example"})
            assert read.headers["access-control-allow-origin"] == "https://pages.example"


def test_an_open_door_is_said_aloud(endless):
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
        with pytest.raises(ValueError, match="NANOCHAT_API_KEY"):
            Options(host=host)
        assert Options(host=host, no_key=True).access.hosts == ()
        assert Options(host=host, key="k").access.key == "k"
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert "localhost" in Options(host=host).access.hosts
    assert "chat.example" in Options(allow_hosts=["Chat.example"]).access.hosts
    opened = Options(host="0.0.0.0", key="k", allow_hosts=["chat.example"]).access.hosts
    assert "chat.example" in opened
    assert "elsewhere.example" not in opened


def test_the_numbers_are_prometheus_s_and_count(server, http_client):
    def numbers():
        families = text_string_to_metric_families(http_client.get("/metrics").text)
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    before = numbers()
    with server.client() as client:
        usage = client.chat.completions.create(model="nanochat", **CHAT).usage
    after = numbers()

    def grown(*key):
        return after[key] - before.get(key, 0)

    assert grown("nanochat_generated_tokens_total") == usage.completion_tokens
    assert grown("nanochat_prompt_tokens_total") == usage.prompt_tokens
    assert grown("nanochat_answers_total", ("finish", "stop")) == 1
    assert grown("nanochat_request_seconds_count") == 1
    assert grown("nanochat_request_seconds_bucket", ("le", "+Inf")) == 1
    route = (("route", "/v1/chat/completions"), ("status", "200"))
    assert grown("nanochat_http_requests_total", *route) == 1
    assert after["nanochat_replicas_alive",] == 1
    assert after["nanochat_resident_bytes",] > 10**7
    until(lambda: any(name.startswith("nanochat_engine_") for name, *_ in numbers()))
    http_client.get("/" + "x" * 50)
    assert not any("xxx" in str(key) for key in numbers()), "a route of its own for every guess"


def test_a_connection_serves_several_requests(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(3):
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"content-type": "application/json"})
        answer = connection.getresponse()
        assert json.loads(answer.read())["choices"][0]["message"]["content"] == ANSWER
        assert answer.headers["x-request-id"]
    connection.close()


def test_more_requests_than_may_be_under_way_are_told_to_come_back(endless):
    with served(endless, limits=Limits(connections=2)) as server, httpx.Client(base_url=server.url) as client:
        busy = [server.begin("/v1/completions", LONG) for _ in range(2)]
        until(lambda: server.rows() == 2)
        assert error(post(client, json.dumps(CHAT)), 429)["code"] == "too_many_requests"
        assert client.get("/health").status_code == 200
        for connection in busy:
            connection.close()
        until(lambda: server.rows() == 0)
        deadline = time.monotonic() + 10
        while post(client, json.dumps(CHAT)).status_code == 429:
            assert time.monotonic() < deadline
