"""A corpus whose shards lie in S3: fetched through the store's connection, then as any other."""

import pytest

from flows import corpus_fetch
from nanochat import recipes
from nanochat.artifacts.store import FileStore
from nanochat.workflow import runner
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import Observer, RunContext
from tests import toy_corpus
from tests.s3_server import s3_server_fixture  # noqa: F401


@pytest.fixture
def bucket(s3_server, tmp_path, monkeypatch):
    for key, value in s3_server.environment.items():
        monkeypatch.setenv(key, value)
    s3_server.create_bucket("corpus")
    return s3_server


def download(settings, home):
    steps = plan(recipes.apply(recipes.stages_of("micro"), settings), ["download"])
    shop = RunContext(FileStore(home / "store"), home, prepare=corpus_fetch.fetch)
    runner.run_plan(steps, shop, Observer())
    return [shop.store.record(part.address)["files"]["text.parquet"]["sha256"] for part in steps[0].parts], steps[
        0
    ].address


def test_a_corpus_in_s3_is_the_same_corpus(bucket, tmp_path):
    local = toy_corpus.make(tmp_path / "corpus")
    for index in range(2):
        path = toy_corpus.shard(tmp_path / "corpus", index)
        bucket.client().upload_file(str(path), "corpus", f"toy/{path.name}")
    remote = [s for s in local if not s.startswith("download.url")] + [
        "download.url=s3://corpus/toy/shard_{index:05d}.parquet"
    ]
    assert download(remote, tmp_path / "remote") == download(local, tmp_path / "local")
    missing = [*remote, "download.url=s3://corpus/toy/part_{index:05d}.parquet"]
    with pytest.raises(ValueError, match=r"s3://corpus/toy/part_0000\d.parquet does not exist"):
        download(missing, tmp_path / "missing")
