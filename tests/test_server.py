"""Prefect's server for those who have none: started once, found again, ended on request."""

import os
import socket
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
        finally:
            assert server.stop(where)
    assert not server.stop(where)


def test_a_server_that_is_named_is_taken_as_it_is(tmp_path):
    where = settings.read({"PREFECT_API_URL": "http://prefect.example/api"}, home=tmp_path)
    with patch.dict(os.environ):
        assert server.ensure(where) == "http://prefect.example/api"
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_left_alone():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert server.free_port(port) != port
