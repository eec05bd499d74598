"""Prefect's server for those who have none: started once, found again, ended on request."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from unittest.mock import patch

import pytest

from flows import server, settings


def test_our_own_server_is_started_once_and_stopped_on_request(tmp_path, monkeypatch):
    where = settings.read({}, home=tmp_path)
    assert server.running(where) is None
    with patch.dict(os.environ):
        monkeypatch.setattr(server, "START_SECONDS", 0.0)
        with pytest.raises(RuntimeError, match="did not start on port"):
            server.ensure(where)
        monkeypatch.undo()
        try:
            url = server.ensure(where)
            assert os.environ["PREFECT_API_URL"] == url
            assert server.ensure(where) == server.running(where) == url
            pid = json.loads((tmp_path / "prefect" / server.STATE).read_text())["pid"]
            monkeypatch.setattr(server, "PROBE_SECONDS", 0.1)
            os.kill(pid, signal.SIGSTOP)  # a machine so busy that several probes get no answer
            threading.Timer(1.0, os.kill, (pid, signal.SIGCONT)).start()
            assert server.running(where) == url
        finally:
            assert server.stop(where)
    assert not server.stop(where)


def test_a_torn_note_of_a_server_and_the_note_of_a_dead_one_are_none(tmp_path):
    where, note = settings.read({}, home=tmp_path), tmp_path / "prefect" / server.STATE
    note.parent.mkdir()
    note.write_text('{"url": "http://127.0')
    assert server.running(where) is None
    note.write_text(json.dumps({"url": "http://127.0.0.1:1/api", "pid": os.getpid(), "started": "another"}))
    assert server.running(where) is None


def test_an_answer_counts_only_where_the_port_is_our_servers():
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    shell = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {listen!r}])"]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ours:
        port = int(ours.stdout.readline())
        with socket.create_server(("127.0.0.1", 0)) as others:
            assert server.listens(ours.pid, port)
            assert not server.listens(ours.pid, others.getsockname()[1])
        ours.communicate("\n")
    assert not server.listens(ours.pid, port)


def test_a_server_that_is_named_is_taken_as_it_is(tmp_path):
    where = settings.read({"PREFECT_API_URL": "http://prefect.example/api"}, home=tmp_path)
    with patch.dict(os.environ):
        assert server.ensure(where) == "http://prefect.example/api"
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_left_alone():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert server.free_port(port) != port
