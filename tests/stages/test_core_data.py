"""CORE as it is published becomes an artifact, whole and checked, or is refused with what to do."""

import errno
import hashlib
import json
import random
import re
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from nanochat.evaluation.core_bundle import LABELS, load, load_tasks
from nanochat.evaluation.core_published import opened, preflight
from nanochat.pipeline import CoreData
from nanochat.stages import core_data
from nanochat.stages.core_data import run as fetch
from tests import published_core
from tests.broken_server import broken_server
from tests.paths import SHARED
from tests.published_core import ROWS, TASKS, place_in, zipped

BUNDLE = SHARED / "data" / "core"


@pytest.fixture
def bundle(tmp_path):
    return published_core.write(tmp_path / "bundle")


@pytest.fixture
def site(bundle):
    with broken_server() as site:
        site.body = zipped(bundle)
        yield site


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def made(tmp_path: Path, name: str, source: str | Path, tasks: str = "all") -> dict[str, bytes]:
    place = place_in(tmp_path / name)
    fetch(CoreData(tasks=tasks, source=str(source)), place)
    assert list(place.work.iterdir()) == []
    return files_of(place.out)


def test_without_tasks_nothing_is_fetched(tmp_path):
    place = place_in(tmp_path)
    assert fetch(CoreData(source="http://127.0.0.1:1/none.zip"), place) == {"tasks": 0.0, "rows": 0.0}
    assert list(files_of(place.out)) == ["core.json"]
    assert load_tasks(place.out) == []


def test_the_artifact_is_the_same_from_a_url_a_zip_and_a_folder(tmp_path, bundle, site):
    site.faults = ["cut"]
    fetched = made(tmp_path, "url", site.url)
    (tmp_path / "bundle.zip").write_bytes(site.body)
    (tmp_path / "flat.zip").write_bytes(zipped(bundle, top=""))
    published_core.write(tmp_path / "beside" / "eval_bundle", data=".")
    for source in ("bundle", "bundle.zip", "flat.zip", "beside"):
        assert made(tmp_path, f"from-{source}", tmp_path / source) == fetched
    assert made(tmp_path, "file", f"file://{tmp_path}/bundle.zip") == fetched


def test_the_list_says_of_each_task_what_is_asked_and_of_each_file_what_is_in_it(tmp_path, bundle):
    files = made(tmp_path, "all", bundle)
    index = json.loads(files["core.json"])
    assert index["tasks"] == [
        {"label": "sums_zeroshot", "file": "sums_zeroshot.jsonl", "kind": "multiple_choice", "shots": 0, "delimiter": " ", "baseline": 33.5},
        {"label": "sums", "file": "sums_zeroshot.jsonl", "kind": "multiple_choice", "shots": 1, "delimiter": " ", "baseline": 33.0},
        {"label": "letters", "file": "letters.jsonl", "kind": "language_modeling", "shots": 1, "delimiter": "\nAnswer: ", "baseline": 0.0},
    ]  # fmt: skip
    for name, uri in (("sums_zeroshot.jsonl", "symbols/sums.jsonl"), ("letters.jsonl", "letters.jsonl")):
        assert [json.loads(line) for line in files[name].splitlines()] == ROWS[uri]
        assert index["files"][name] == {"rows": len(ROWS[uri]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    assert [task.baseline for task in load_tasks(tmp_path / "all" / "out")] == [0.335, 0.33, 0.0]


def test_only_the_files_of_the_named_tasks_are_kept(tmp_path, bundle):
    assert sorted(made(tmp_path, "one", bundle, "letters")) == ["core.json", "letters.jsonl"]
    (bundle / "eval_data" / "letters.jsonl").unlink()
    assert sorted(made(tmp_path, "two", bundle, "sums, sums_zeroshot")) == ["core.json", "sums_zeroshot.jsonl"]


@pytest.mark.parametrize("wrong", ["cut", "altered"])
def test_a_zip_that_is_not_whole_is_refused_and_fetched_anew(tmp_path, site, wrong):
    whole, place = site.body, place_in(tmp_path / "place")
    at = whole.index(b"letters.jsonl") + 40  # in the compressed rows
    site.body = whole[: len(whole) // 2] if wrong == "cut" else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    with pytest.raises(ValueError, match=r"cannot be read \(.*\); it is cut or altered.*: get it again"):
        fetch(CoreData(tasks="letters", source=site.url), place)
    assert [*place.work.iterdir(), place.out / "core.json"] == [place.out / "core.json"]
    assert not (place.out / "core.json").exists()
    site.body = whole
    assert fetch(CoreData(tasks="letters", source=site.url), place) == {"tasks": 1.0, "rows": 3.0}


def test_a_zip_altered_anywhere_is_refused_or_gives_the_same_rows(tmp_path, bundle):
    dice, whole, path = random.Random(1), zipped(bundle), tmp_path / "bundle.zip"
    rows = {name: content for name, content in made(tmp_path, "whole", bundle).items() if name != "core.json"}
    refusals = 0
    for number in range(300):
        at = dice.randrange(len(whole))
        other = [bytes([whole[at] ^ dice.randrange(1, 256)]), b""][number % 2]
        path.write_bytes(whole[:at] + other + whole[at + 1 :])
        try:
            found = made(tmp_path, str(number), path)
        except ValueError:
            refusals += 1
        else:
            assert {name: content for name, content in found.items() if name != "core.json"} == rows
    assert refusals > 150


def test_a_server_that_has_no_zip_or_gives_up_is_said(tmp_path, site, monkeypatch):
    stage = CoreData(tasks="all", source=site.url)
    site.faults = ["404"]
    with pytest.raises(ValueError, match=r"the server refuses: 404 .*check the address"):
        fetch(stage, place_in(tmp_path))
    monkeypatch.setattr(core_data, "ATTEMPTS", 1)
    site.faults = ["cut"]
    with pytest.raises(ConnectionError, match=r"gave up after 1 attempts: \d+ of \d+ bytes came"):
        fetch(stage, place_in(tmp_path))
    site.faults = []
    place = place_in(tmp_path)
    fetch(stage, place)
    assert site.seen[-1]["range"].startswith("bytes=")  # what had come was kept
    assert list(place.work.iterdir()) == []


def test_a_file_that_is_missing_is_named(tmp_path, bundle):
    (bundle / "eval_data" / "letters.jsonl").unlink()
    (tmp_path / "bundle.zip").write_bytes(zipped(bundle))
    for source in (bundle, tmp_path / "bundle.zip"):
        with pytest.raises(ValueError, match=r"task 'letters': .*eval_data/letters\.jsonl is missing; complete the"):
            made(tmp_path, "files", source)
    (bundle / "eval_meta_data.csv").unlink()
    with pytest.raises(ValueError, match=r"eval_meta_data\.csv is missing; complete the bundle"):
        made(tmp_path, "files", bundle, "sums")
    (bundle / "core.yaml").unlink()
    with pytest.raises(ValueError, match=r"has core\.yaml 0 times, and once is needed: give the CORE bundle"):
        made(tmp_path, "files", bundle)


def test_two_bundles_in_one_folder_are_refused(tmp_path):
    for name in "ab":
        published_core.write(tmp_path / "both" / name)
    with pytest.raises(ValueError, match=r"has core\.yaml 2 times"):
        made(tmp_path, "files", tmp_path / "both")


@pytest.mark.parametrize("source", ["", "nowhere", "file:///nowhere.zip", "s3://bucket/bundle.zip"])
def test_a_source_that_is_none_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match=rf"core_data\.source = '{source}': there is no such folder or zip; give one"):
        made(tmp_path, "files", source)


def test_what_is_no_zip_or_an_encrypted_one_is_refused(tmp_path, bundle):
    path = tmp_path / "bundle.zip"
    path.write_text("<html>", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bundle\.zip: cannot be read \(File is not a zip file\)"):
        made(tmp_path, "files", path)
    whole = bytearray(zipped(bundle))
    for start in (found.start() for found in re.finditer(b"PK\x01\x02", whole)):
        whole[start + 8] |= 1  # the flag of encryption
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"core\.yaml: cannot be read \(.*encrypted"):
        made(tmp_path, "files", path)


def test_a_disk_that_fails_is_no_damage_of_the_zip(tmp_path, bundle, monkeypatch):
    path = tmp_path / "bundle.zip"
    path.write_bytes(zipped(bundle))

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile, "ZipFile", fails)
    with pytest.raises(OSError, match="Input/output error"):
        made(tmp_path, "files", path)


@pytest.mark.parametrize("uri", ["../secret.jsonl", "/etc/passwd", "a/../../secret.jsonl", "..\\secret.jsonl"])
def test_a_path_that_leads_out_of_the_bundle_is_refused(tmp_path, bundle, uri):
    (tmp_path / "secret.jsonl").write_text('{"context": "a", "continuation": "b"}\n' * 3, encoding="utf-8")
    published_core.write(bundle, [{**TASKS[2], "dataset_uri": uri}])
    with pytest.raises(ValueError, match=r"task 'letters': dataset_uri = .* leads out of the bundle"):
        made(tmp_path, "files", bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": 3}, "task 3: label = 3: needs a text"),
        ({"label": "../a"}, r"task 3: label = '\.\./a': needs a name of letters"),
        ({"label": "sums"}, "'sums' is there twice"),
        ({"icl_task_type": "schemas"}, "task 'letters': unknown task type 'schemas': did you mean 'schema'"),
        ({"num_fewshot": []}, r"task 'letters': num_fewshot = \[\]: needs a number"),
        ({"num_fewshot": [0, 5]}, r"num_fewshot = \[0, 5\]"),
        ({"num_fewshot": [-1]}, "num_fewshot = -1"),
        ({"num_fewshot": True}, "num_fewshot = True"),
        ({"num_fewshot": 3}, r"letters\.jsonl: 3 examples are too few for 3 shots; leave 'letters' out"),
        ({"continuation_delimiter": None}, "continuation_delimiter = None"),
        ({"dataset_uri": None}, "dataset_uri = None"),
        ({"icl_task_type": "schema"}, r"letters\.jsonl, line 1: no context_options, gold, which a schema task needs"),
        ({"label": "unlisted"}, r"eval_meta_data\.csv: Random baseline of 'unlisted' = None: needs a percentage"),
        ({"label": "unused"}, r"Random baseline of 'unused' = ''"),
    ],
)
def test_a_task_that_is_not_described_as_it_should_be_is_refused(tmp_path, bundle, change, said):
    published_core.write(bundle, [*TASKS[:2], {**TASKS[2], **change}])
    with pytest.raises(ValueError, match=said):
        made(tmp_path, "files", bundle)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"icl_tasks: [", "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
        (b"!!python/object:os.system {}", "not YAML"),
        (b"a: 1", "needs a list of tasks under icl_tasks"),
        (b"- 1", "needs a list of tasks under icl_tasks"),
        (b"icl_tasks: [1]", "task 1: needs keys and values, found int"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, bundle, content, said):
    (bundle / "core.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"core\.yaml.*{said}"):
        made(tmp_path, "files", bundle)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "not CSV"),
        (b'Eval Task,Random baseline\n"sums', "not CSV"),
        (b"Eval Task,Random baseline\nsums,100", "Random baseline of 'sums' = '100': needs a percentage below 100"),
        (b"Eval Task,Random baseline\nsums,nan", "Random baseline of 'sums' = 'nan'"),
        (b"Eval Task\nsums", "Random baseline of 'sums' = ''"),
    ],
)
def test_baselines_that_are_none_are_refused(tmp_path, bundle, content, said):
    (bundle / "eval_meta_data.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"eval_meta_data\.csv: {said}"):
        made(tmp_path, "files", bundle, "sums")


def test_a_row_is_refused_by_file_and_line_for_every_task_that_reads_it(tmp_path, bundle):
    path = bundle / "eval_data" / "symbols" / "sums.jsonl"
    path.write_text(
        path.read_text(encoding="utf-8") + '\n{"query": "a", "choices": ["b"], "gold": 0}\n', encoding="utf-8"
    )
    with pytest.raises(
        ValueError, match=r"symbols/sums\.jsonl, line 10: choices = \['b'\]: needs a list of at least 2"
    ):
        made(tmp_path, "files", bundle)
    published_core.write(bundle, [TASKS[1], {**TASKS[2], "dataset_uri": TASKS[1]["dataset_uri"]}])
    with pytest.raises(ValueError, match=r"sums\.jsonl, line 1: no context, .* a language_modeling task needs"):
        made(tmp_path, "files", bundle)


def test_without_pyyaml_it_is_said_so(tmp_path, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ValueError, match="is read with PyYAML, which is not installed: install pyyaml"):
        made(tmp_path, "files", bundle)


def test_an_unknown_label_is_refused_with_its_nearest_before_anything_is_fetched(bundle):
    url = "http://127.0.0.1:1/none.zip"
    preflight("", url)
    preflight("all", url)
    preflight(", ".join(LABELS), url)
    with pytest.raises(ValueError, match=r"core_data\.tasks: unknown CORE task 'hellaswagg': did you mean 'hellaswag'"):
        preflight("hellaswagg", url)
    with pytest.raises(ValueError, match=r"core_data\.source: .*names no host"):
        preflight("all", "https:///none.zip")
    preflight("sums", str(bundle))
    with pytest.raises(ValueError, match=r"core_data\.tasks: unknown CORE task 'sum': did you mean 'sums'"):
        preflight("sum", str(bundle))


@pytest.mark.skipif(not BUNDLE.is_dir(), reason="the CORE bundle is not at hand")
def test_the_real_bundle_is_read_with_all_its_labels_baselines_and_shots(tmp_path):
    place = place_in(tmp_path)
    numbers = fetch(CoreData(tasks="all", source=str(BUNDLE)), place)
    expected = {task["label"]: task for task in json.loads((BUNDLE / "core_meta.json").read_text(encoding="utf-8"))}
    tasks = load(place.out, 10**9)
    assert tuple(task.label for task, _ in tasks) == LABELS == tuple(expected)
    for task, examples in tasks:
        other = expected[task.label]
        assert (task.kind, task.delimiter) == (other["icl_task_type"], other["continuation_delimiter"])
        assert (task.shots, round(100 * task.baseline, 9)) == (other["num_fewshot"][0], other["random_baseline"])
        assert len(examples) == other["n"]
    assert numbers["rows"] == sum(task["n"] for label, task in expected.items() if label != "hellaswag")


def test_a_zip_is_not_unpacked(tmp_path, bundle):
    path = tmp_path / "bundle.zip"
    path.write_bytes(zipped(bundle))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../outside", "x")
    before = {each for each in tmp_path.rglob("*") if "files" not in each.parts}
    made(tmp_path, "files", path, "letters")
    assert {each for each in tmp_path.rglob("*") if "files" not in each.parts} == before
    with opened(path) as root:
        assert yaml.safe_load((root / "core.yaml").read_bytes())["icl_tasks"] == TASKS
