"""A folder, a bucket and a variable are read as they were written, by everything that reads them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from flows import settings
from flows.store import open_store
from flows.tracking_uri import check, database_of
from nanochat import environment
from nanochat.artifacts.store import FileStore
from nanochat.cli import main as plain
from nanochat.locations import bucket_of, file_uri, folder_of, sqlite_uri
from tests import toy_corpus
from tests.flow_home import FlowHome

NASTY = [
    "run #1",
    "wh?at",
    "100%41",
    "ü ö",
    "a+b&c=d",
    "semi;colon",
    "back\\slash",
    "a%2Fb",
    "q'uote\"s",
    "[1]",
    "$HOME",
]
PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.lists(PARTS.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3))
def test_a_path_comes_back_from_every_form_it_is_given(parts):
    path = Path("/", *parts)
    assert folder_of(file_uri(path)) == path
    assert Path(make_url(sqlite_uri(path)).database) == path
    assert database_of(sqlite_uri(path)) == path
    assert bucket_of(f"s3://bucket{path}") == ("bucket", str(path).strip("/"))


@pytest.mark.parametrize("name", NASTY)
def test_home_and_store_are_where_they_were_said_to_be(name, tmp_path, monkeypatch):
    home = tmp_path / name
    for read in (settings.read({}, home=home), settings.read({"NANOCHAT_HOME": str(home)})):
        assert read.home == home
        assert folder_of(read.store) == home / "store"
        assert database_of(read.tracking_uri) == home / "mlflow.db"
        check(read.tracking_uri)
    for uri in (str(home), f"file://{home}", file_uri(home)):
        assert open_store(settings.read({}, store=uri).store, tmp_path / "cache").root == home
    store = open_store(file_uri(home), tmp_path / "cache")
    store.put("a/b", b"here")
    assert (home / "a" / "b").read_bytes() == b"here"


@pytest.mark.parametrize("name", ["run#1", "run?1", "run%231", "run 1", "rün"])
def test_two_prefixes_are_two_stores(name, tmp_path):
    store, other = (open_store(f"s3://bkt/{prefix}", tmp_path) for prefix in (name, "run"))
    assert (store.bucket, store.prefix) == ("bkt", name)
    assert store.uri == f"s3://bkt/{name}" != other.uri
    assert settings.read({"NANOCHAT_STORE": f"s3://bkt/{name}"}).store == store.uri


def test_an_empty_variable_is_none_and_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    empty = settings.read(
        {"NANOCHAT_HOME": "", "NANOCHAT_STORE": " ", "NANOCHAT_CACHE_GB": "", "MLFLOW_TRACKING_URI": ""}
    )
    assert empty == settings.read({})
    assert empty.home == tmp_path / ".nanochat"
    assert environment.home({"NANOCHAT_HOME": "~/nc"}) == tmp_path / "nc"
    assert settings.read({"NANOCHAT_HOME": "~/nc"}).home == tmp_path / "nc"
    assert settings.read({}, home=Path("~/nc")).home == tmp_path / "nc"
    for uri in ("~/store", "file://~/store"):
        assert settings.read({"NANOCHAT_STORE": uri}).store == f"file://{tmp_path}/store"
        assert settings.read({}, store=uri).store == f"file://{tmp_path}/store"
    assert FileStore(Path("~/s")).uri == f"file://{tmp_path}/s"


@pytest.mark.parametrize("size", ["much", "inf", "-1", "nan", "1e400", "-inf", "0x10"])
def test_a_cache_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match=r"NANOCHAT_CACHE_GB = .*gibibytes"):
        settings.read({"NANOCHAT_CACHE_GB": size})


def test_a_user_that_is_not_there_is_refused_by_name(capsys):
    assert plain(["plan", "micro", "--store", "file://~nobody-here/x"]) == 2
    assert "nobody-here" in capsys.readouterr().err


def test_the_plain_runner_s_store_is_where_it_was_said_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    environment_of_it = {**os.environ, "NANOCHAT_HOME": "", "NANOCHAT_STORE": "", "PYTHONPATH": str(environment_root())}
    command = [sys.executable, "-m", "nanochat", "run", "micro", "--only", "task_data"]
    subprocess.run(command, env=environment_of_it, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".nanochat"]
    subprocess.run([*command, "--home", "~/a #1"], env=environment_of_it, check=True, capture_output=True)
    assert (tmp_path / "a #1" / "store" / "task_data").is_dir()


def environment_root():
    return Path(environment.__file__).parents[1]


def test_a_run_in_a_home_whose_name_means_something_in_urls(tmp_path, prefect_server):
    """Every half agrees: command, flow, MLflow's and Prefect's files, and what `ls` finds."""
    home = FlowHome(tmp_path / "run #1 wh?at 100%41 ü", toy_corpus.make(tmp_path / "corpus"), prefect_server)
    home.path.mkdir()
    run = home.run(only="task_data")
    assert run.state.name == "Completed"
    address = home.steps()["task_data"].address
    assert home.store.addresses() == [address]
    assert [status for status, _ in home.tracked(address)] == ["FINISHED"]
    command = [sys.executable, "-m", "flows.cli", "ls", "--home", str(home.path)]
    said = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert address in said.stdout
