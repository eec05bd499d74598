"""`nanochat serve` as a person has it: what it prints, what it refuses, and how it ends.

Real processes and real signals. Not covered: aliases (tests/flows/test_serve.py).
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from nanochat import cli
from nanochat.artifacts.store import FileStore
from tests.paths import ROOT
from tests.serve.server import ANSWER, make_model, until

LONG = {"prompt": "a", "max_tokens": 4000, "temperature": 0, "stream": True}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """With a store that holds two chat models and a tokenizer."""
    made, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("model")
    files = {path.name: path for path in make_model(folder, 4096).iterdir()}
    store = FileStore(made / "store")
    for finished, address in enumerate(("rl/d1-00000000", "rl/d1-11111111"), 1):
        facts = {"facts": {"recipe": "tiny"}, "preimage": {}, "finished": float(finished)}
        store.publish(address, files, facts)
    store.publish("tokenizer/v265-00000000", {"tokenizer.json": files["tokenizer.json"]}, {"preimage": {}})
    return made


class Command:
    """A running server."""

    def __init__(self, *words, **environment):
        command = [sys.executable, "-m", "nanochat", "serve", "--port", "0", *map(str, words)]
        around = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self.process = subprocess.Popen(
            command, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
            start_new_session=True,
        )  # fmt: skip
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if "Ctrl-C ends it" in line:
                break
        found = re.search(r"http://127\.0\.0\.1:(\d+)\n", self.said)
        assert found, self.said + self.process.communicate()[1]
        self.port, self.url = int(found[1]), found[0].strip()
        self.children = psutil.Process(self.process.pid).children()
        assert self.children

    def begin(self, body):
        """A stream whose first bytes have come."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + content)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        return connection

    def end(self):
        """The exit code and what stood on stderr; no process is left."""
        said = self.process.communicate(timeout=60)[1]
        until(lambda: not any(child.is_running() for child in self.children))
        return self.process.returncode, said


@contextlib.contextmanager
def command(*words, **environment):
    running = Command(*words, **environment)
    try:
        yield running
    finally:
        for each in [running.process, *running.children]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                each.kill()
        running.process.communicate()


def rest_of(connection):
    said = b""
    with connection:
        while more := connection.recv(2**16):
            said += more
    return said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_the_newest_model_and_ends_at_a_signal(home, number):
    with command("--home", home) as server:
        assert "rl/d1-11111111, of the recipe tiny, made 1970-01-01" in server.said
        assert httpx.get(f"{server.url}/ready").json() == {"status": "ready", "model": "rl/d1-11111111"}
        card = httpx.get(f"{server.url}/v1/models/rl/d1-11111111").json()
        assert (card["recipe"], card["created"]) == ("tiny", 2)
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT).json()
        assert answer["choices"][0]["message"]["content"] == ANSWER
        server.process.send_signal(number)
        assert server.end() == (0, "")


def test_sigterm_lets_what_runs_finish_and_takes_nothing_new(home):
    with contextlib.ExitStack() as closing, command("rl/d1-00000000", "--home", home) as server:
        stream = server.begin(LONG | {"max_tokens": 1500})
        waiting = closing.enter_context(httpx.Client(base_url=server.url))
        assert waiting.get("/health").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while (ready := waiting.get("/ready")).status_code == 200:
            assert time.monotonic() < deadline
        assert ready.status_code == 503
        refused = waiting.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        said = rest_of(stream)
        assert b"data: [DONE]" in said
        assert b'"finish_reason":"length"' in said
        code, told = server.end()
        assert code == 0
        assert "finishing 1 answer" in told


def test_what_runs_longer_than_the_drain_is_ended_with_a_word(home):
    with command("--home", home, "--drain", "0.2") as server:
        streams = [server.begin(LONG | {"n": 8}) for _ in range(4)]
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            said = rest_of(stream)
            assert b'"code":"shutting_down"' in said
            assert b"[DONE]" not in said
        assert server.end()[0] == 0


def test_the_second_signal_ends_at_once(home):
    with command("--home", home, "--drain", "60") as server:
        stream = server.begin(LONG | {"n": 16})
        server.process.send_signal(signal.SIGINT)
        assert "finishing" in server.process.stderr.readline()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 130
        until(lambda: not any(child.is_running() for child in server.children))
        stream.close()


def test_a_replica_does_not_outlive_a_killed_server(home):
    with command("--home", home) as server:
        server.process.kill()
        server.process.wait()
        until(lambda: not any(child.is_running() for child in server.children))


def test_the_key_is_read_from_the_environment(home):
    with command("--home", home, "--host", "127.0.0.1", NANOCHAT_API_KEY=" secret ") as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200


def refused(capsys, *words, code=2):
    """The one line with which the command was refused."""
    assert cli.main(["serve", *map(str, words)]) == code
    said = capsys.readouterr().err.strip()
    assert "\n" not in said, said
    return said


def test_without_a_model_it_says_what_to_run(tmp_path, capsys):
    said = refused(capsys, "--home", tmp_path)
    assert "no chat model" in said
    assert "nanochat run tiny" in said
    assert "no model in" in refused(capsys, "--directory", tmp_path)


def test_what_cannot_be_served_is_refused_in_a_line(home, capsys):
    place = ("--home", home)
    assert "is no model" in refused(capsys, "tokenizer/v265-00000000", *place)
    assert "did you mean 'rl/d1-00000000'" in refused(capsys, "rl/d1-00000001", *place)
    assert "use `nanochat`" in refused(capsys, "models:/nanochat-tiny@champion", *place)
    assert "NANOCHAT_API_KEY" in refused(capsys, "--host", "0.0.0.0", *place)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refused(capsys, "--port", port, *place)
    assert "--host" in refused(capsys, "--host", "192.0.2.1", "--no-key", "--port", "0", *place)


def test_a_model_that_does_not_load_ends_the_command_with_its_reason(home, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (home / "store" / "rl" / "d1-00000000").iterdir():
        (broken / path.name).write_bytes(
            path.read_bytes()[:1000] if path.suffix == ".safetensors" else path.read_bytes()
        )
    said = refused(capsys, "--directory", broken, "--port", "0", code=1)
    assert "model.safetensors cannot be read" in said


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_a_library_that_is_missing_is_named(home, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from nanochat.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--home", str(home)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"needs {missing}: install the packages of nanochat[serve]" in done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [("--port", "65536"), ("--port", "x"), ("--seconds", "nan"), ("--drain", "-1"), ("--queue", "1.5")],
)
def test_options_out_of_range_are_refused_by_name(option, value, capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", f"{option}={value}"])
    assert option in capsys.readouterr().err
