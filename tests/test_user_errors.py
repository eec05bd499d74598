"""What people type and what surrounds a command: a sentence, never a traceback, and nothing in the wrong place."""

import os
import subprocess
import sys

import pytest
import torch

from flows.settings import read as read_settings
from nanochat.artifacts.store import FileStore
from nanochat.cli import main
from nanochat.inference.sampling import choose
from nanochat.workflow import launch
from tests.paths import ROOT


def test_the_coldest_temperature_draws_the_likeliest_token():
    for temperature in (1e-38, 1e-40, 1e-300):
        tokens, log_probabilities = choose(torch.tensor([[9.0, 2, 3]]), torch.tensor([0.5]).double(), temperature)
        assert (tokens.item(), log_probabilities.item()) == (0, 0.0)


def test_an_endless_horizon_is_refused_by_name(capsys):
    assert main(["plan", "micro", "pretrain.tokens_per_parameter=1e308"]) == 2
    assert "tokens_per_parameter" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["stdout", "stderr", "stdin"])
def test_a_closed_stream_is_no_error(closed):
    arrow = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}[closed]
    command = ["bash", "-c", f'exec "$0" -m nanochat knobs {arrow}', sys.executable]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("pretrain:" in ended.stdout) == (closed != "stdout")


def test_a_blank_home_or_store_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "theirs"))
    monkeypatch.delenv("NANOCHAT_STORE", raising=False)
    assert main(["run", "micro", "--only", "task_data", "--home", "", "--store", " "]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert (tmp_path / "theirs" / "store").is_dir()


def test_the_variable_is_named_where_it_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_HOME", "~nobody-here/nc")
    with pytest.raises(SystemExit):
        main(["plan", "micro"])
    assert "NANOCHAT_HOME = '~nobody-here/nc'" in capsys.readouterr().err


def test_explain_takes_settings_behind_options_and_two_addresses_at_most(tmp_path, capsys):
    assert main(["explain", "micro", "--home", str(tmp_path), "seed=2"]) == 0
    assert main(["explain", "a/b", "c/d", "e/f", "--home", str(tmp_path)]) == 2
    assert "two addresses" in capsys.readouterr().err


def test_an_artifact_on_another_disk_linked_back_is_read(tmp_path):
    store = FileStore(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"one")
    store.publish("made/x-1", {"file": tmp_path / "file"}, {})
    (tmp_path / "store" / "made").rename(tmp_path / "moved")
    (tmp_path / "store" / "made").symlink_to(tmp_path / "moved")
    assert (store.fetch("made/x-1") / "file").read_bytes() == b"one"
    with pytest.raises(ValueError, match="leaves the folder"):
        store.get("../outside")


def test_a_writer_that_comes_late_does_not_touch_the_files_of_the_first(tmp_path):
    first = FileStore(tmp_path / "store")
    late = FileStore(tmp_path / "store")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
    first.publish("made/x-1", {"file": tmp_path / "one"}, {})
    standing = late.publish("made/x-1", {"file": tmp_path / "two"}, {})
    assert standing == late.record("made/x-1")
    assert (FileStore(tmp_path / "store").fetch("made/x-1") / "file").read_bytes() == b"one"


def test_the_probe_waits_as_training_does(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["probe", "--json"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == launch.SPIN_COUNT


@pytest.mark.parametrize("url", ["localhost:4200/api", "http:///api", "ftp://h/api"])
def test_an_address_of_prefect_that_is_none_is_refused_by_name(url):
    with pytest.raises(ValueError, match=r"PREFECT_API_URL = .*: give the address of a server, as http"):
        read_settings({"PREFECT_API_URL": url})
    assert read_settings({"PREFECT_API_URL": " https://h/api "}).prefect_api_url == "https://h/api"
