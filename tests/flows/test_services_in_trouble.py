"""What goes wrong around the services costs a sentence at most: pipes, ports, odd stores, databases, deliveries."""

import http.server
import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows import cli, server, settings, track, tracking_uri
from flows.cache import Cache
from flows.display import Display
from flows.registry import Registry, mlmodel
from flows.store import download_object, open_store
from nanochat.artifacts.store import FileStore
from tests.flows.test_s3_store import _fill, _OldFashioned, bucket  # noqa: F401
from tests.flows.test_track import Seen, info
from tests.s3_server import s3_server_fixture  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries


@contextmanager
def old_fashioned(**more):
    """A server that refuses boto3's checksums; what it holds and refuses lies on its class."""
    handler = type("Server", (_OldFashioned,), {"objects": {}, "refused": [], **more})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_server_that_does_not_implement_if_match_is_refused_by_its_name(bucket, tmp_path):  # noqa: F811
    def put(self):
        if self.headers.get("If-Match"):
            return self._reply(501, b"<Error><Code>NotImplemented</Code></Error>")
        return _OldFashioned.do_PUT(self)

    with old_fashioned(do_PUT=put) as (handler, endpoint):
        with pytest.raises(ValueError, match=r"s3://any/x.*refuses If-Match.*conditional writes"):
            open_store("s3://any/x", tmp_path / "cache", endpoint=endpoint).check_writable()
        assert handler.objects == {}


def test_the_check_lists_only_under_the_prefix(bucket, tmp_path):  # noqa: F811
    asked = []

    def get(self):
        asked.append(self.path)
        return _OldFashioned.do_GET(self)

    with old_fashioned(do_GET=get) as (_, endpoint):
        open_store("s3://any/some/prefix", tmp_path / "cache", endpoint=endpoint).check_writable()
    lists = [path for path in asked if "list-type" in path]
    assert lists
    assert all("prefix=some%2Fprefix%2F" in path for path in lists)


def test_first_uploads_at_once_all_do_without_the_checksums_that_are_refused(bucket, tmp_path):  # noqa: F811
    together = threading.Barrier(6)

    def put(self):
        if any("checksum" in name.lower() for name in self.headers):
            together.wait(30)
        return _OldFashioned.do_PUT(self)

    with old_fashioned(do_PUT=put) as (handler, endpoint):
        store = open_store("s3://any/x", tmp_path / "cache", endpoint=endpoint)
        with ThreadPoolExecutor(6) as pool:
            assert len(list(pool.map(lambda name: store.put(f"a{name}", b"1"), range(6)))) == 6
        assert len(handler.refused) == 6, "each found out by itself"


def test_a_corpus_is_read_from_a_server_that_refuses_the_header_of_checksums(bucket, tmp_path, monkeypatch):  # noqa: F811
    def get(self):
        if self.headers.get("x-amz-checksum-mode"):
            return self._reply(400, b"<Error><Code>InvalidArgument</Code></Error>")
        return _OldFashioned.do_GET(self)

    with old_fashioned(do_GET=get, do_HEAD=get) as (handler, endpoint):
        handler.objects["/any/shard"] = b"words"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        download_object("any", "shard", tmp_path / "shard")
    assert (tmp_path / "shard").read_bytes() == b"words"


@pytest.mark.parametrize("endpoint", ["http://[::1]:9000", "http://127.0.1.1:9000", "http://far.example"])
def test_an_s3_server_on_this_machine_needs_no_proxy_in_any_spelling(bucket, tmp_path, monkeypatch, endpoint):  # noqa: F811
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    proxies = open_store("s3://any/x", tmp_path)._client._endpoint.http_session._proxy_config._proxies
    assert bool(proxies) == (endpoint == "http://far.example")


def test_what_another_process_evicts_while_the_cache_is_measured_counts_nothing(tmp_path, monkeypatch):
    cache, gone = Cache(tmp_path, limit=1000), tmp_path / "files" / "gone"
    _fill(cache, "a/1", b"1" * 400)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([*sorted(self.iterdir()), gone]))
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    assert cache.size() == 400
    assert not cache._is_sound(gone, {"size": 1, "sha256": "0"})


def test_a_reader_that_goes_ends_no_stage(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        display = Display()
        for _ in range(2):
            display.failed("sft/d4-01", "some cause")
        print("and what the command says afterwards", flush=True)
        monkeypatch.undo()


@pytest.mark.parametrize("port", ["99999", "-1", "many"])
def test_a_port_that_is_none_is_refused_before_any_server_is_started(tmp_path, capsys, port):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["ui", "--home", str(tmp_path), f"--mlflow-port={port}"])
    assert "give a port from 1 to 65535" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_mlflow_server_that_never_listens_is_not_waited_for_and_one_deaf_to_term_is_killed(tmp_path, monkeypatch):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('stuck', flush=True); time.sleep(60)"
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(cli.launch, "python_command", lambda *_: [sys.executable, "-c", deaf])
    monkeypatch.setattr(server, "START_SECONDS", 2.0)
    monkeypatch.setattr(server, "END_SECONDS", 0.5)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(RuntimeError, match=r"does not listen after 2 s: stuck; its log is .*mlflow-server.log"):
        cli._mlflow_page(settings.read({}, home=tmp_path), tmp_path / "mlflow.db", server.free_port(0))
    assert started[0].returncode == -9


def test_a_database_that_cannot_be_made_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    assert cli.main(["ui", "--home", str(tmp_path), "--mlflow-port", "0"]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(f"nanochat: MLflow's database {tmp_path}/file/mlflow.db cannot be made: ")


def test_an_estimate_that_fails_is_none(capsys, monkeypatch):
    for code in ("raise SystemExit(3)", "print('noise'); print('{}')", "print('no json')"):
        monkeypatch.setattr(cli.launch, "python_command", lambda *_, code=code: [sys.executable, "-c", code])
        cli._expect([], {"sft"})
        assert "could not be measured" in capsys.readouterr().out


def test_a_blank_home_is_none(tmp_path, monkeypatch):
    homes = []
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "theirs"))
    monkeypatch.setattr(cli.server, "stop", lambda where: homes.append(where.home))
    assert cli.main(["ui", "--stop", "--home", ""]) == 0
    assert homes == [tmp_path / "theirs"]


def test_an_empty_variable_is_not_set(monkeypatch):
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_ALLOW_FILE_STORE", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"):
        monkeypatch.setenv(name, "")
    tracking_uri.surround()
    server.ensure(settings.read({"PREFECT_API_URL": "http://127.0.0.1:1/api"}))
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    with pytest.raises(ValueError, match="no runs in a folder"):
        tracking_uri.check("file:///x")


def test_mlflow_reads_the_folder_of_a_home_beyond_the_basic_plane():
    assert yaml.safe_load(mlmodel("/data/🚀 x"))["flavors"]["python_function"]["data"] == "/data/🚀 x"


@pytest.mark.parametrize("prefix", ["run#1", "run?1"])
def test_a_version_whose_address_mlflow_would_cut_says_where_it_lies(prefix, caplog):
    texts = []
    client = SimpleNamespace(log_text=lambda *given: texts.append(given))
    store = SimpleNamespace(location=lambda address: f"s3://bkt/{prefix}/{address}")
    assert Registry(client, "m", store, str)._source("rl/d4-01", "RUN") == "runs:/RUN/model"
    [(run_id, text, name)] = texts
    assert (run_id, name) == ("RUN", "model/where.txt")
    assert f"s3://bkt/{prefix}/rl/d4-01" in text
    assert "nanochat chat rl/d4-01" in caplog.text


def test_files_that_were_dropped_are_told_by_the_next_run_and_no_number_twice(tmp_path, monkeypatch):
    uri, calls, send = f"sqlite:///{tmp_path}/mlflow.db", itertools.count(), track.StageRun._send_files
    samples, stored = tmp_path / "samples.md", FileStore(tmp_path / "store")
    samples.write_text("Hello!", encoding="utf-8")
    record = stored.publish("sft/d4-01", {"samples.md": samples}, {"numbers": {"chatcore": 0.5}, "finished": 2000.0})

    def refused_once(self, texts):
        if next(calls) == 0:
            raise track.Refused("for a test")
        send(self, texts)

    monkeypatch.setattr(track.StageRun, "_send_files", refused_once)
    tracker = track.Tracker(uri, "test")
    run = tracker.stage_run(tracker.pipeline_run("p", "tiny", {}), info("sft/d4-01"))
    run.finish("FINISHED", numbers={"chatcore": 0.5}, files=[samples])
    assert (tracker.close(60), tracker.outbox.dropped) == (0, 1)
    seen = Seen(uri, "test")
    for _ in range(2):  # the second finds it told
        tracker, told = track.Tracker(uri, "test"), {**info("sft/d4-01"), "record": record}
        tracker.cached(tracker.pipeline_run("p", "tiny", {}), "sft/d4-01", told, lambda: stored.fetch("sft/d4-01"))
        assert (tracker.close(60), tracker.outbox.dropped) == (0, 0)
        (stage,) = seen.runs()
        assert "samples.md" in [each.path for each in seen.client.list_artifacts(stage.info.run_id)]
        assert len(seen.client.get_metric_history(stage.info.run_id, "chatcore")) == 1
        assert stage.data.tags[track.SENT]
    assert next(calls) == 2
