"""The folder store and the lease: whole or invisible, refused when damaged, one maker at a time."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from nanochat.artifacts.lease import Lease
from nanochat.artifacts.store import Conflict, Damaged, FileStore


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


def publish(store, tmp_path, address="pretrain/d1-00000000", text="weights"):
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "model.bin").write_text(text, encoding="utf-8")
    return store.publish(address, {"model.bin": source / "model.bin"}, {"preimage": {"stage": "pretrain"}})


def test_a_published_artifact_is_found_whole(store, tmp_path):
    record = publish(store, tmp_path)
    assert record["files"]["model.bin"]["size"] == 7
    assert store.record("pretrain/d1-00000000") == record
    assert (store.fetch("pretrain/d1-00000000") / "model.bin").read_text(encoding="utf-8") == "weights"
    assert store.addresses() == ["pretrain/d1-00000000"]


def test_files_without_a_record_are_invisible(store, tmp_path):
    publish(store, tmp_path)
    store.forget("pretrain/d1-00000000")
    assert store.record("pretrain/d1-00000000") is None
    assert store.addresses() == []
    with pytest.raises(KeyError):
        store.fetch("pretrain/d1-00000000")


def test_the_first_of_two_records_stands(store, tmp_path):
    first = publish(store, tmp_path)
    second = store.publish("pretrain/d1-00000000", {}, {"preimage": {}})
    assert second == first


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove"])
def test_a_damaged_file_is_refused_with_the_remedy(store, tmp_path, damage):
    publish(store, tmp_path)
    path = store.root / "pretrain/d1-00000000/model.bin"
    {
        "truncate": lambda: path.write_text("wei", encoding="utf-8"),
        "alter": lambda: path.write_text("weighty"[:7], encoding="utf-8"),
        "remove": path.unlink,
    }[damage]()
    with pytest.raises(Damaged, match="--force pretrain"):
        FileStore(store.root).fetch("pretrain/d1-00000000")


def test_a_conditional_put_lets_one_writer_win(store):
    etag = store.put("key", b"one", if_absent=True)
    with pytest.raises(Conflict):
        store.put("key", b"two", if_absent=True)
    assert store.put("key", b"two", if_match=etag) != etag
    with pytest.raises(Conflict):
        store.put("key", b"three", if_match=etag)
    with pytest.raises(Conflict):
        store.put("other", b"three", if_match=etag)
    assert store.get("key")[0] == b"two"
    assert store.get("key/below") is None


def test_a_store_that_cannot_be_written_is_refused_with_its_name(tmp_path):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be written"):
        FileStore(tmp_path / "file" / "store").check_writable()


def never(_holder):
    raise AssertionError("had to wait")


def test_one_holder_at_a_time_and_rising_tokens(store):
    first, second = Lease(store, "rl/x", poll=0.01), Lease(store, "rl/x", poll=0.01)
    assert first.acquire(lambda: False, never)

    def give_up(_holder):
        raise TimeoutError

    with pytest.raises(TimeoutError):
        second.acquire(lambda: False, give_up)
    first.release()
    assert second.acquire(lambda: False, never)
    assert second.token == first.token + 1
    second.release()


def test_waiting_ends_when_the_other_run_has_made_it(store):
    first, second = Lease(store, "rl/x"), Lease(store, "rl/x", poll=0.01)
    first.acquire(lambda: False, never)
    done = threading.Event()
    assert not second.acquire(done.is_set, lambda holder: done.set())
    first.release()


def _hold_and_hang(root, ready):
    Lease(FileStore(root), "rl/x").acquire(lambda: False, never)
    ready.set()
    time.sleep(60)


def test_a_killed_holder_of_this_host_is_taken_over_at_once(store):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold_and_hang, args=(store.root, ready))
    holder.start()
    assert ready.wait(30)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    successor = Lease(store, "rl/x", poll=0.01)
    assert successor.acquire(lambda: False, lambda _: None)
    assert successor.token == 2
    successor.release()


def test_a_silent_holder_of_another_host_is_taken_over_after_the_ttl(store):
    store.put(
        "leases/rl/x.json",
        json.dumps({"token": 4, "host": "elsewhere", "boot": "b", "pid": 1, "started": "1"}).encode(),
    )
    lease, waited = Lease(store, "rl/x", ttl=0.2, poll=0.02), []
    assert lease.acquire(lambda: False, waited.append)
    assert waited
    assert lease.token == 5
    lease.release()


def test_a_holder_that_was_taken_over_is_told(store):
    lease = Lease(store, "rl/x", ttl=0.12)
    lease.acquire(lambda: False, never)
    store.put("leases/rl/x.json", b'{"token": 9}')
    assert lease.lost.wait(5)
    lease.release()
    assert store.get("leases/rl/x.json")[0] == b'{"token": 9}'


class Unreachable(FileStore):
    away = False

    def put(self, *args, **kwargs):
        if self.away:
            raise OSError("unreachable")
        return super().put(*args, **kwargs)


def test_a_holder_that_cannot_renew_stops_before_others_may_start(tmp_path):
    store = Unreachable(tmp_path)
    lease = Lease(store, "rl/x", ttl=0.3)
    lease.acquire(lambda: False, never)
    store.away = True
    assert lease.lost.wait(5)
    lease.release()


def test_release_survives_a_store_that_is_away(tmp_path):
    store = Unreachable(tmp_path)
    lease = Lease(store, "rl/x")
    lease.acquire(lambda: False, never)
    store.away = True
    lease.release()
    assert lease.lost.is_set()


class Forgetful(FileStore):
    """A store whose answer to a put gets lost on the way: the put has happened, the caller does not hear of it."""

    deaf = False

    def put(self, *args, **kwargs):
        etag = super().put(*args, **kwargs)
        if self.deaf:
            self.deaf = False
            raise OSError("the answer was lost")
        return etag


def test_a_lost_answer_is_not_a_lost_lease(tmp_path):
    store = Forgetful(tmp_path)
    lease = Lease(store, "rl/x")
    lease.acquire(lambda: False, never)
    store.deaf = True
    assert lease.confirm()
    assert lease.confirm(), "our own put was taken for another holder's"
    lease.release()
    assert json.loads(store.get("leases/rl/x.json")[0])["released"]


def test_who_has_lost_the_lease_can_no_longer_confirm_it(store):
    lease = Lease(store, "rl/x")
    lease.acquire(lambda: False, never)
    store.put("leases/rl/x.json", b'{"token": 9, "holder": "another"}')
    assert not lease.confirm()
    lease.release()


def test_a_holder_in_another_container_of_this_host_is_not_taken_for_dead(store):
    lease = Lease(store, "rl/x")
    lease.acquire(lambda: False, never)
    held = json.loads(store.get("leases/rl/x.json")[0])
    lease.release()
    store.put("leases/rl/x.json", json.dumps({**held, "pid": 2**30, "pids": "pid:[1]"}).encode())
    waited = []
    other = Lease(store, "rl/x", ttl=0.2, poll=0.02)
    assert other.acquire(lambda: False, waited.append)
    assert waited
    other.release()
