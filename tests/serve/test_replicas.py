"""Several replicas, one that dies, a model that changes under way, one that does not load: nobody's answer is lost or mixed.

The processes are real. Not covered: GPUs.
"""

import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import threading

import openai
import pytest

from nanochat.inference.engine import Engine
from nanochat.serve import replica_process
from nanochat.serve.limits import Limits
from nanochat.serve.replica import LoadFailed, Placement
from nanochat.serve.source import in_directory
from nanochat.workflow.launch import child_environment, python_command
from tests.paths import ROOT
from tests.serve.server import ANSWER, CHAINS, END, START, make_model, served, until

LONG = {"prompt": "a", "max_tokens": 4000, "temperature": 0, "stream": True}
HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), sequence_len=4096)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Answers `New.`"""
    return make_model(tmp_path_factory.mktemp("other"), 4096, [[START, *b"New.", END], CHAINS[2]])


def answer(client, **more):
    return client.chat.completions.create(model="nanochat", messages=HELLO, temperature=0, **more)


def test_requests_go_to_the_replica_with_the_fewest_rows(model):
    with served(model, replicas=2) as server, server.client() as client:
        busy = [server.begin("/v1/completions", LONG | {"n": 2}) for _ in range(4)]
        until(lambda: server.rows() == 8)
        assert [replica.rows for replica in server.serving.current.replicas] == [4, 4]
        assert answer(client).choices[0].message.content == ANSWER
        for connection in busy:
            connection.close()
        until(lambda: server.rows() == 0)


def test_a_replica_that_dies_is_started_again_and_who_was_not_begun_is_answered(model):
    with served(model, placement=Placement(rows=4)) as server, server.client() as client:
        busy = [server.begin("/v1/completions", LONG) for _ in range(4)]
        for connection in busy:
            assert b"200 OK" in connection.recv(100)
        results = []
        waiting = [threading.Thread(target=lambda: results.append(answer(client))) for _ in range(3)]
        for thread in waiting:
            thread.start()
        until(lambda: len(server.serving.tickets) == 7)
        os.kill(server.replica.pid, signal.SIGKILL)
        for connection in busy:
            said = b""
            while b"replica_lost" not in said:
                more = connection.recv(2**16)
                assert more, said
                said += more
            assert b"[DONE]" not in said
            connection.close()
        for thread in waiting:
            thread.join(60)
        assert [each.choices[0].message.content for each in results] == [ANSWER] * 3
        assert server.serving.current.restarts == 1


def test_a_replica_is_started_again_although_no_process_can_be_made_for_a_while(model, monkeypatch):
    made, tries = subprocess.Popen, []

    def popen(*words, **options):
        tries.append(words)
        if len(tries) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return made(*words, **options)

    with served(model, placement=Placement("cpu")) as server:
        monkeypatch.setattr(subprocess, "Popen", popen)
        server.replica.kill()
        until(lambda: len(tries) == 2 and server.replica.alive, seconds=60)
        assert answer(server.client()).choices[0].message.content == ANSWER


def test_what_kills_every_replica_is_not_tried_for_ever(model, monkeypatch):
    monkeypatch.setattr("nanochat.serve.replicas.RESTART_SECONDS", (0.0,))
    with served(model) as server, server.client() as client:
        server.do(hold(server))
        failed = []

        def ask():
            with pytest.raises(openai.InternalServerError) as raised:
                answer(client)
            failed.append(raised.value.code)

        thread = threading.Thread(target=ask)
        thread.start()
        for tries in (1, 2):
            until(lambda: [each.tries for each in server.serving.tickets] == [tries])  # noqa: B023
            until(lambda: server.replica.alive)
            os.kill(server.replica.pid, signal.SIGKILL)
        thread.join(60)
        assert failed == ["replica_lost"]


async def hold(server):
    """Requests reach the process, answers do not come back."""
    replicas = server.serving.current
    make = replicas._replica

    def deaf(placement):
        replica = make(placement)
        replica._heard = lambda number, piece: None
        return replica

    replicas._replica = deaf
    for replica in replicas.replicas:
        replica._heard = lambda number, piece: None


def test_the_model_changes_between_requests_and_each_answer_is_of_one(model, other):
    sources = [in_directory(model)]
    with served(lambda: sources[-1]) as server, server.client(timeout=120) as client:
        slow = server.begin("/v1/completions", LONG | {"max_tokens": 3000})
        slow.recv(100)
        assert answer(client).choices[0].message.content == ANSWER
        old = server.replica
        sources.append(in_directory(other))
        said = []
        while not said or said[-1] == ANSWER:
            said.append(answer(client).choices[0].message.content)
        assert said[-1] == "New."
        assert answer(client).model == in_directory(other).name
        assert old.alive, "the old one is still answering"
        told = b""
        while b"[DONE]" not in told:
            told += slow.recv(2**16)
        chunks = [json.loads(line[6:]) for line in told.split(b"\n") if line.startswith(b"data: {")]
        assert {chunk["model"] for chunk in chunks} == {in_directory(model).name}
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        slow.close()
        until(lambda: not old.alive)
        assert server.serving.metrics.counters["model_changes_total"] == {(("result", "loaded"),): 1}
        assert client.models.list().data[0].id == in_directory(other).name


def test_while_the_new_one_does_not_load_or_is_unknown_the_old_one_serves(model, tmp_path, caplog):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model.iterdir():
        (broken / path.name).write_bytes(
            path.read_bytes()[:100] if path.suffix == ".safetensors" else path.read_bytes()
        )
    sources, failures = [in_directory(model)], []

    def provider():
        if failures:
            raise failures[-1]
        return sources[-1]

    with served(provider) as server, server.client() as client:
        failures.append(OSError("http://me:SECRET@mlflow does not answer"))
        until(lambda: server.serving._silent)
        assert answer(client).choices[0].message.content == ANSWER
        failures.clear()
        sources.append(in_directory(broken))
        until(lambda: server.serving.metrics.counters["model_changes_total"])
        assert server.serving.metrics.counters["model_changes_total"] == {(("result", "failed"),): 1}
        assert answer(client).choices[0].message.content == ANSWER
        until(lambda: len(server.serving.sets) == 1)
    text = caplog.text
    assert "SECRET" not in text
    assert text.count("cannot be found out") == 1
    assert text.count("does not load") == 1


def test_a_model_that_does_not_load_is_refused_with_the_reason(model, tmp_path):
    for name in ("tokenizer.json", "model.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    with pytest.raises(LoadFailed, match=r"model\.safetensors is missing"), served(tmp_path):
        pass
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(LoadFailed, match=r"there is no tokenizer\.json"), served(tmp_path):
        pass
    (tmp_path / "model.json").unlink()
    with pytest.raises(ValueError, match=r"there is no model\.json"):
        in_directory(tmp_path)


def test_a_setting_that_only_the_engine_refuses_is_a_client_s_error(model):
    with served(model, limits=Limits()) as server, server.client() as client:
        original = server.replica.ask
        server.replica.ask = lambda asked, prompt, sampling, n: original(asked, prompt, {**sampling, "top_k": 0}, n)
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="top_k=0"):
                answer(client, stream=stream)
        until(lambda: server.rows() == 0)


FAILING = """
import sys
if any("replica_process" in word for word in sys.orig_argv):
    from nanochat.inference.scheduler import Scheduler
    step = Scheduler.step
    def failing(self):
        for request in self.waiting:
            if ord("!") in request.prompt:
                raise RuntimeError("boom")
            if ord("$") in request.prompt:
                raise SystemExit
        return step(self)
    Scheduler.step = failing
"""


def test_a_step_that_fails_or_ends_the_engine_s_thread_is_an_error_and_the_server_goes_on(model, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(FAILING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setattr("nanochat.serve.replicas.RESTART_SECONDS", (0.0,))
    with served(model) as server, server.client() as client:
        for text, code in (("!", "engine_error"), ("$", "replica_lost")):
            with pytest.raises(openai.InternalServerError) as raised:
                client.chat.completions.create(model="nanochat", messages=[{"role": "user", "content": text}])
            assert raised.value.code == code
            assert answer(client).choices[0].message.content == ANSWER
        assert server.serving.current.restarts == 2


@pytest.mark.parametrize(("asked", "given"), [([], None), (["--compile"], True)])
def test_whether_a_step_is_compiled_is_the_devices_affair_unless_it_was_asked_for(model, monkeypatch, asked, given):
    """The engine compiles on a GPU, and on a CPU where it is told to."""
    told = {}

    def engine(*positional, compile, **named):
        told["compile"] = compile
        return Engine(*positional, **named)

    monkeypatch.setattr(replica_process, "Engine", engine)
    words = ["--fd", "0", "--directory", str(model), "--device", "cpu", *asked]
    replica_process.loaded(replica_process.arguments().parse_args(words))
    assert told == {"compile": given}


@pytest.mark.parametrize("there", [True, False])
def test_a_replica_whose_server_ended_while_it_loaded_ends_without_a_word(model, tmp_path, there):
    ours, theirs = socket.socketpair()
    ours.close()
    words = ["--fd", str(theirs.fileno()), "--directory", str(model if there else tmp_path), "--device", "cpu"]
    command = python_command("nanochat.serve.replica_process", *words)
    with theirs:
        ended = subprocess.run(command, env=child_environment(), pass_fds=(theirs.fileno(),), capture_output=True)
    assert (ended.returncode, ended.stderr) == (0 if there else 1, b"")


def test_a_replica_ends_with_its_server(model):
    with served(model) as server:
        process = server.replica._process
        assert dataclasses.asdict(server.replica.placement)["rows"] == 0
        assert server.replica.room >= 4
    assert process.poll() == 0
