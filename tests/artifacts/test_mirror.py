"""A checkpoint in the store is whole and the newest, whatever fails on the way; another machine goes on from it."""

import json
import logging
import threading
import time
from pathlib import Path

import pytest

from flows.store import open_store
from nanochat.artifacts import mirror as mirroring
from nanochat.artifacts.files import sha256_of
from nanochat.artifacts.mirror import Mirror
from nanochat.artifacts.store import Conflict, FileStore
from tests.s3_server import S3Server, s3_server_fixture  # noqa: F401

ADDRESS = "pretrain/d1-00000000"


def checkpoint(work: Path, step: int) -> None:
    """A directory like that of a checkpoint, and a line of metrics."""
    directory = work / "checkpoints" / f"step-{step:06d}"
    directory.mkdir(parents=True)
    (directory / "model-0-of-1.safetensors").write_text(f"weights of {step}", encoding="utf-8")
    files = {path.name: {"sha256": sha256_of(path)} for path in directory.iterdir()}
    (directory / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    with (work / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step}) + "\n")


def content(work: Path) -> dict[str, bytes]:
    return {path.relative_to(work).as_posix(): path.read_bytes() for path in work.rglob("*") if path.is_file()}


def mirror(tmp_path: Path, work: str = "a", token: int = 1) -> Mirror:
    (tmp_path / work).mkdir(exist_ok=True)
    return Mirror(FileStore(tmp_path / "store"), ADDRESS, tmp_path / work, token)


def update(of: Mirror) -> None:
    of.update(threading.Event())


def test_another_machine_gets_the_newest_and_nothing_is_left_in_the_end(tmp_path: Path) -> None:
    first = mirror(tmp_path)
    first.restore()
    update(first)
    assert first.store.keys() == []
    for step in (2, 999_998, 1_000_000):
        checkpoint(tmp_path / "a", step)
        update(first)
    assert len(first.store.keys("checkpoints/")) == 4  # the newest: two files, the metrics, and its name
    assert first.store.addresses() == []
    mirror(tmp_path, "b", token=2).restore()
    expected = {name: data for name, data in content(tmp_path / "a").items() if "step-000002" not in name}
    assert content(tmp_path / "b") == {name: data for name, data in expected.items() if "step-999998" not in name}
    first.forget()
    assert first.store.keys() == []


def test_a_bucket_keeps_it_as_a_folder_does(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.create_bucket("mirrored")
    store = open_store("s3://mirrored/some/prefix", tmp_path / "cache")
    checkpoint_of(tmp_path, "a", 2)
    first = Mirror(store, ADDRESS, tmp_path / "a", 1)
    update(first)
    Mirror(store, ADDRESS, tmp_path / "b", 2).restore()
    assert content(tmp_path / "b") == content(tmp_path / "a")
    checkpoint(tmp_path / "a", 3)
    update(first)
    assert len(list(store.keys("checkpoints/"))) == 4
    first.forget()
    assert list(store.keys()) == []


@pytest.mark.parametrize(("local", "after"), [(3, ["step-000003", "step-000005"]), (7, ["step-000007"])])
def test_what_lies_in_the_work_directory_goes_before_unless_it_is_older(
    local: int, after: list[str], tmp_path: Path
) -> None:
    checkpoint_of(tmp_path, "a", 5)
    update(mirror(tmp_path))
    checkpoint_of(tmp_path, "b", local)
    (tmp_path / "b" / "checkpoints" / "step-000005").mkdir()  # what was never finished
    mirror(tmp_path, "b", token=2).restore()
    whole = sorted(path.parent.name for path in (tmp_path / "b" / "checkpoints").glob("*/manifest.json"))
    assert whole == after


def checkpoint_of(tmp_path: Path, work: str, step: int) -> None:
    (tmp_path / work).mkdir()
    checkpoint(tmp_path / work, step)


class Breaking(FileStore):
    """Breaks off after so many writes."""

    left = 1000

    def upload(self, key: str, path: Path, sha256: str) -> None:
        self._count()
        super().upload(key, path, sha256)

    def put(self, *args: object, **kwargs: object) -> str:
        self._count()
        return super().put(*args, **kwargs)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("the network is away")


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_an_upload_that_breaks_off_leaves_the_checkpoint_before(writes: int, tmp_path: Path) -> None:
    store = Breaking(tmp_path / "store")
    checkpoint_of(tmp_path, "a", 1)
    first = Mirror(store, ADDRESS, tmp_path / "a", 1)
    update(first)
    checkpoint(tmp_path / "a", 2)
    store.left = writes
    with pytest.raises(OSError, match="network"):
        update(first)
    mirror(tmp_path, "b", token=2).restore()
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["step-000001"]
    store.left = 1000
    update(first)
    mirror(tmp_path, "c", token=3).restore()
    assert [path.name for path in (tmp_path / "c" / "checkpoints").iterdir()] == ["step-000002"]


def test_a_run_that_was_taken_over_puts_nothing_in_the_others_place(tmp_path: Path) -> None:
    old, new = mirror(tmp_path, "a", token=1), mirror(tmp_path, "b", token=2)
    checkpoint(tmp_path / "a", 9)
    checkpoint(tmp_path / "b", 3)
    update(new)
    with pytest.raises(Conflict):
        update(old)
    mirror(tmp_path, "c", token=3).restore()
    assert [path.name for path in (tmp_path / "c" / "checkpoints").iterdir()] == ["step-000003"]


def test_one_that_lost_a_file_is_passed_over_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint_of(tmp_path, "a", 1)
    update(mirror(tmp_path))
    next((tmp_path / "store").rglob("model-*")).unlink()
    with caplog.at_level(logging.WARNING):
        mirror(tmp_path, "b", token=2).restore()
    assert "model-0-of-1.safetensors is missing" in caplog.text
    assert not list((tmp_path / "b").rglob("step-*/manifest.json"))


def test_work_is_followed_and_a_failure_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirroring, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(mirroring, "FAILED_SECONDS", 0.01)
    store = Breaking(tmp_path / "store")
    store.left = 2
    checkpoint_of(tmp_path, "a", 1)
    of = Mirror(store, ADDRESS, tmp_path / "a", 1)

    def until(done: str) -> None:
        deadline = time.monotonic() + 30
        while done not in caplog.text and of.newest.get("name") != done:
            assert time.monotonic() < deadline, done
            time.sleep(0.01)

    with of.following():
        until("trying again: the network is away")
        store.left = 1000
        until("step-000001")
        checkpoint(tmp_path / "a", 2)
        until("step-000002")
        mirror(tmp_path, "b", token=2).store.delete(f"checkpoints/{ADDRESS}/newest.json")
        checkpoint(tmp_path / "a", 3)
        until("another run has taken over")
    stopped = threading.Event()
    stopped.set()
    of.update(stopped)
    assert of.newest["step"] == 2


class SlowStore(FileStore):
    """One whose uploads take a while."""

    def upload(self, key: str, source: Path, sha256: str) -> None:
        time.sleep(0.5)
        super().upload(key, source, sha256)


def test_nothing_comes_back_after_the_stage_is_done(tmp_path: Path) -> None:
    """An upload on its way when the stage ends is waited for, and names nothing any more."""
    (tmp_path / "a").mkdir()
    slow = Mirror(SlowStore(tmp_path / "store"), ADDRESS, tmp_path / "a", 1)
    checkpoint(tmp_path / "a", 3)
    with slow.following():
        time.sleep(0.2)  # the first file is on its way
    slow.forget()
    assert slow.store.keys() == []
    time.sleep(1.5)
    assert slow.store.keys() == []
    assert not (tmp_path / "a" / mirroring.HELD).exists()


def test_what_is_uploaded_may_be_pruned_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    store = FileStore(tmp_path / "store")
    of = Mirror(store, ADDRESS, tmp_path / "a", 1)
    checkpoint(tmp_path / "a", 3)
    upload = store.upload

    def pruning(key: str, source: Path, sha256: str) -> None:
        for path in (tmp_path / "a" / "checkpoints" / "step-000003").glob("*"):
            path.unlink()
        upload(key, source, sha256)

    monkeypatch.setattr(store, "upload", pruning)
    update(of)
    mirror(tmp_path, "b", token=2).restore()
    assert (tmp_path / "b" / "checkpoints" / "step-000003" / "manifest.json").exists()


def test_a_damaged_one_is_replaced_by_the_next_of_whatever_step(tmp_path: Path) -> None:
    checkpoint_of(tmp_path, "a", 900)
    update(mirror(tmp_path))
    for path in (tmp_path / "store").rglob("model-0-of-1.safetensors"):
        path.write_text("something else", encoding="utf-8")
    other = mirror(tmp_path, "b", token=2)
    other.restore()
    assert not (tmp_path / "b" / "checkpoints" / "step-000900").exists()
    checkpoint(tmp_path / "b", 100)
    update(other)
    assert mirror(tmp_path, "c", token=3).newest["step"] == 100
