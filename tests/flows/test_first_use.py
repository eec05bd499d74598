"""What is made at first use is whole or not there, also where the maker was killed, by us or by another program."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from flows import first_use, track
from tests import toy_corpus
from tests.paths import ROOT
from tests.prefect_server import eventually

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries
BY_OURSELVES = "import sys; from flows import track; track.prepare(sys.argv[1])"
BY_MLFLOW = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"


def maker(script, database):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, f"sqlite:///{database}"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def killed(script, database, watched):
    """A process that makes the database, killed as soon as it has written something."""
    process = maker(script, database)

    def writing():
        assert process.poll() is None, "it was not killed under way"
        return watched.exists() and watched.stat().st_size > 4096

    try:
        deadline = time.monotonic() + 60
        while not writing():
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def statuses(database):
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT status FROM runs").fetchall()


def told(database):
    """One pipeline's run, sent."""
    tracker = track.Tracker(f"sqlite:///{database}", "test")
    tracker.pipeline_run("p", "tiny", {})
    tracker.finish_pipeline("FINISHED")
    assert (tracker.close(60), tracker.outbox.dropped) == (0, 0)
    assert statuses(database) == [("FINISHED",)]


def test_a_database_whose_maker_is_killed_is_not_there_and_the_next_run_makes_it(tmp_path, caplog):
    database = tmp_path / "mlflow.db"
    killed(BY_OURSELVES, database, tmp_path / ".mlflow.db.making")
    assert not database.exists()
    told(database)
    assert not list(tmp_path.glob("*half-made*"))
    assert caplog.records == []


def test_a_half_made_database_of_another_program_is_set_aside_with_a_word(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(first_use, "STILL_SECONDS", 0.5)
    database = tmp_path / "mlflow.db"
    killed(BY_MLFLOW, database, database)
    with closing(sqlite3.connect(database)) as connection:  # of the step that the kill cut off
        connection.execute("CREATE TABLE IF NOT EXISTS scorers (x)")
    half = database.read_bytes()
    told(database)
    [aside] = tmp_path.glob("mlflow.db.half-made-*")
    assert aside.read_bytes() == half
    [said] = [record.getMessage() for record in caplog.records]
    assert str(aside) in said
    assert "half-made" in said


def test_a_journal_without_its_database_does_not_roll_into_the_new_one(tmp_path):
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:  # a page that was changed and not committed: a hot journal
        connection.execute("CREATE TABLE old (x)")
        connection.commit()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE more (x)")
        (tmp_path / "mlflow.db-journal").replace(tmp_path / "kept")
    database.unlink()
    (tmp_path / "kept").replace(tmp_path / "mlflow.db-journal")
    told(database)
    assert list(tmp_path.glob("mlflow.db.half-made-*-journal"))


def test_a_database_that_holds_something_or_is_being_made_is_left_alone(tmp_path, monkeypatch):
    def never(path):
        raise AssertionError(path)

    database = tmp_path / "some.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE experiments (id)")
        connection.commit()
        process = subprocess.Popen(  # another program, that goes on making it
            [
                sys.executable,
                "-c",
                "import sqlite3, sys, time; time.sleep(1); c = sqlite3.connect(sys.argv[1]);"
                "c.execute('INSERT INTO experiments VALUES (0)'); c.commit()",
                str(database),
            ]
        )
        first_use.made_whole(database, "experiments", never)
        assert process.wait() == 0
    first_use.made_whole(database, "experiments", never)
    (tmp_path / "text.db").write_text("not a database", encoding="utf-8")
    first_use.made_whole(tmp_path / "text.db", "experiments", never)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".some.db.lock", "some.db", "text.db"]


@pytest.mark.parametrize("missing", ["", "scorers"], ids=["whole", "without a table that ours has"])
def test_a_database_of_a_newer_mlflow_is_left_alone_and_told_once_with_the_remedy(tmp_path, caplog, missing):
    database = tmp_path / "mlflow.db"
    track.prepare(f"sqlite:///{database}")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.execute(f"ALTER TABLE {missing} RENAME TO other" if missing else "SELECT 1")
        connection.commit()
    tracker = track.Tracker(f"sqlite:///{database}", "test")
    tracker.outbox.pauses = (0.01,)
    tracker.pipeline_run("p", "tiny", {})
    tracker.finish_pipeline("FINISHED")
    assert tracker.close(3) == 2
    said = [record.getMessage() for record in caplog.records if record.name.startswith("flows")]
    assert len(said) == 2
    assert "ffffffffffff" in said[0]
    assert f"{database} is of another version of MLflow" in said[0]
    assert not list(tmp_path.glob("*half-made*"))


def test_processes_that_need_it_at_once_make_one(tmp_path):
    database = tmp_path / "new folder" / "mlflow.db"
    makers = [maker(BY_OURSELVES, database) for _ in range(2)]
    assert [each.wait(120) for each in makers] == [0, 0]
    told(database)


def test_an_experiment_or_a_model_that_another_run_makes_at_the_same_moment_is_used(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ours, others = track.Tracker(uri, "test"), track.Tracker(uri, "test")
    known, asked = ours._known_experiment, []

    def others_come_first():
        asked.append(known())
        if len(asked) == 1:
            others.pipeline_run("o", "tiny", {})
            assert others.close(60) == 0
        return asked[-1]

    monkeypatch.setattr(ours, "_known_experiment", others_come_first)
    ours.pipeline_run("p", "tiny", {})
    assert (ours.close(60), ours.outbox.dropped) == (0, 0)
    assert [bool(each) for each in asked] == [False, True]
    assert len(statuses(tmp_path / "mlflow.db")) == 2


def test_the_command_that_was_killed_at_its_first_start_records_the_next_one(prefect_server, tmp_path):
    """The whole way: `nanochat run`, kill -9 while it makes the database, and again."""
    environment = {**os.environ, **prefect_server.environment, "NANOCHAT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flows.cli", "run", "micro", *toy_corpus.make(tmp_path / "corpus")]
    command += ["--only", "download"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: (tmp_path / ".mlflow.db.making").exists() or process.poll() is not None)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "MLflow" not in done.stderr, done.stderr
    assert set(statuses(tmp_path / "mlflow.db")) == {("FINISHED",)}
