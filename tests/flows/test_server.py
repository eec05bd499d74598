"""Prefect's server for those who have none: started once, found again, ended on request."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from flows import loopback, server, service_log, settings
from nanochat.workflow import launch
from tests.paths import ROOT
from tests.prefect_server import eventually


def test_our_own_server_is_started_once_and_stopped_on_request(tmp_path, monkeypatch):
    where = settings.read({}, home=tmp_path)
    assert server.running(where) is None
    with patch.dict(os.environ):
        monkeypatch.setattr(server, "START_SECONDS", 0.0)
        with pytest.raises(RuntimeError, match="did not start on port"):
            server.ensure(where)
        monkeypatch.undo()
        try:
            monkeypatch.setattr(server, "PREFERRED_PORT", server.free_port(0))  # not Prefect's own
            url = server.ensure(where)
            assert os.environ["PREFECT_API_URL"] == url
            assert server.ensure(where) == server.running(where) == url
            with loopback.open_url(f"{url.removesuffix('/api')}/ui-settings", 10) as answer:
                assert json.load(answer)["api_url"] == url, "the page shows the runs of another server"
            pid = json.loads((tmp_path / "prefect" / server.STATE).read_text(encoding="utf-8"))["pid"]
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
    note.write_text('{"url": "http://127.0', encoding="utf-8")
    assert server.running(where) is None
    note.write_text(
        json.dumps({"url": "http://127.0.0.1:1/api", "pid": os.getpid(), "started": "another"}), encoding="utf-8"
    )
    assert server.running(where) is None


def test_an_answer_counts_only_where_the_port_is_our_servers():
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    shell = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {listen!r}])"]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as ours:
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


@pytest.fixture
def ours(tmp_path):
    """The place of a server of our own, which is ended afterwards."""
    where = settings.read({}, home=tmp_path / "a%41 b?c#d")
    with patch.dict(os.environ):
        os.environ.pop("PREFECT_API_URL", None)
        yield where
        server.stop(where)
        assert launch.marked(server._mark(where.home / "prefect")) == []


def with_revision(database, revision):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
        connection.commit()


def test_a_server_is_found_again_after_its_starter_was_killed_and_a_newer_database_is_named_at_once(ours):
    """In a folder whose name means something in a URL; one start serves for both, because a start takes long."""
    home = ours.home / "prefect"
    script = "import sys, pathlib; from flows import server, settings; "
    script += "server.ensure(settings.read({}, home=pathlib.Path(sys.argv[1])))"
    starter = subprocess.Popen([sys.executable, "-c", script, str(ours.home)], cwd=ROOT, start_new_session=True)
    note = eventually(lambda: server._noted(home))
    os.killpg(starter.pid, signal.SIGKILL)  # as the terminal's Ctrl-C, it does not reach the server
    starter.wait()
    assert server.ensure(ours) == note["url"]
    assert server._noted(home) == note
    assert (home / "prefect.db").stat().st_size > 0
    os.kill(note["pid"], signal.SIGSTOP)  # it does not answer, and is ended all the same
    threading.Timer(0.5, os.kill, (note["pid"], signal.SIGCONT)).start()
    assert server.stop(ours)

    with_revision(home / "prefect.db", "ffffffffffff")
    began = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        server.ensure(ours)
    assert time.monotonic() - began < server.START_SECONDS / 2
    said = str(caught.value)
    assert "Can't locate revision identified by 'ffffffffffff'" in said
    assert f"{home / 'prefect.db'} is of another version of Prefect" in said
    assert said.endswith(f"its log is {home / 'server.log'}")
    assert "___" not in said
    assert not list(home.glob("*half-made*"))
    with closing(sqlite3.connect(home / "prefect.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("ffffffffffff",)]
    assert server._noted(home) is None


def test_a_half_made_database_that_holds_nothing_is_set_aside_and_the_server_starts(tmp_path, caplog):
    where = settings.read({}, home=tmp_path)
    database = tmp_path / "prefect" / "prefect.db"
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as connection:  # the first migration, cut off
        connection.execute("CREATE TABLE flow (id)")
    (database.parent / "server.pid").touch()  # as Prefect's own start leaves it for a moment
    with patch.dict(os.environ):
        os.environ.pop("PREFECT_API_URL", None)
        try:
            assert server.ensure(where)
        finally:
            assert server.stop(where)
    [aside] = [
        each for each in database.parent.glob("prefect.db.half-made-*") if not each.name.endswith(("-wal", "-shm"))
    ]
    assert str(aside) in caplog.text


def test_a_database_that_holds_something_is_not_set_aside(tmp_path):
    database, said = tmp_path / "prefect.db", "sqlite3.OperationalError: table flow already exists"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE flow_run (id)")
        connection.execute("INSERT INTO flow_run VALUES (1)")
        connection.commit()
    assert not server._was_half_made(database, said)
    assert [each.name for each in tmp_path.iterdir()] == ["prefect.db"]


@pytest.mark.parametrize(
    "note", ['{"url": "http://127.0', "null", "[]", "{}", '{"url": 1, "pid": "x", "started": ""}', ""]
)
def test_a_note_that_says_nothing_is_none(tmp_path, note):
    where = settings.read({}, home=tmp_path)
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / server.STATE).write_text(note, encoding="utf-8")
    assert server.running(where) is None
    assert not server.stop(where)


DISK = "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Traceback:\n  x\n{DISK}\n[SQL: INSERT]\n\nERROR:    Application startup failed. Exiting.\nServer stopped!\n",
         f"{DISK}; make room on the disk of /h; its log is /h/server.log"),
        ("OSError: [Errno 28] No space left on device: '/h/x'\nServer stopped!",
         "OSError: [Errno 28] No space left on device: '/h/x'; make room on the disk of /h; its log is /h/server.log"),
        ("hello\nERROR: no luck with http://me:secret@host/?sig=secret\n",
         "ERROR: no luck with http://***@host/?sig=***; its log is /h/server.log"),
        ("ValueError: Experiment x already exists\n", "ValueError: Experiment x already exists; its log is /h/server.log"),
        ("\n", "it said nothing; its log is /h/server.log"),
    ],
)  # fmt: skip
def test_the_reason_is_the_telling_line_with_the_remedy_and_without_secrets(text, expected):
    assert service_log.reason("Prefect", text, Path("/h/server.log"), Path("/h/prefect.db")) == expected
