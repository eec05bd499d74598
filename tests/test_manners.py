"""What a command says to a person who gave it something it cannot use, in a terminal that is not as it should be; what the
Makefile takes from the surroundings, and what is recorded of the checkout."""

import itertools
import os
import shutil
import stat
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows import cli
from nanochat.artifacts.provenance import checkout_facts
from nanochat.artifacts.store import FileStore
from nanochat.cli import main
from nanochat.data.tokenizer import whole_characters
from nanochat.errors import LARGEST
from nanochat.inference.sampling import check_settings
from tests.paths import ROOT

GIT = ["git", "-c", "user.name=n", "-c", "user.email=n@example.invalid"]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def repository(path):
    path.mkdir(parents=True)
    around = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", path.name]):
        subprocess.run([*GIT, *words], cwd=path, check=True, env=around)
    said = subprocess.run(
        [*GIT, "rev-parse", "HEAD"], cwd=path, check=True, env=around, capture_output=True, text=True, encoding="utf-8"
    )
    return said.stdout.strip()


def test_the_commit_is_that_of_the_checkout_whatever_git_was_told(tmp_path, monkeypatch):
    commit, other = repository(tmp_path / "mine"), repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert checkout_facts(tmp_path / "mine") == {"git_commit": commit, "git_dirty": False}
    assert commit != other
    (tmp_path / "mine" / "new").write_text("", encoding="utf-8")
    assert checkout_facts(tmp_path / "mine")["git_dirty"] is True
    for name, value in {"COUNT": "1", "KEY_0": "status.showUntrackedFiles", "VALUE_0": "no"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert checkout_facts(tmp_path / "mine")["git_dirty"] is True


def unknown_with(facts, words):
    assert facts["git_commit"] == facts["git_dirty"] == "unknown"
    assert words in facts["git_note"]


def test_what_git_does_not_tell_is_unknown(tmp_path, monkeypatch):
    repository(tmp_path / "outer")
    inner = tmp_path / "outer" / "inner"
    inner.mkdir()
    unknown_with(checkout_facts(inner), "is no git checkout")
    (inner / ".git").mkdir()  # broken: git would go on to the one around it
    unknown_with(checkout_facts(inner), "not a git repository")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    subprocess.run([*GIT, "init", "-q"], cwd=fresh, check=True)
    unknown_with(checkout_facts(fresh), "fatal")
    monkeypatch.setenv("PATH", str(tmp_path))
    unknown_with(checkout_facts(fresh), "git")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a checkout another owner")
def test_a_checkout_of_another_owner_is_unknown_with_git_s_reason(tmp_path, monkeypatch):
    repository(tmp_path / "theirs")
    for path in [tmp_path / "theirs", *(tmp_path / "theirs").rglob("*")]:
        os.chown(path, 12345, 12345)
    monkeypatch.setenv("HOME", str(tmp_path))  # without a safe.directory of one's own
    unknown_with(checkout_facts(tmp_path / "theirs"), "dubious ownership")


@pytest.fixture
def store(tmp_path):
    store = FileStore(tmp_path / "home" / "store")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    store.publish("tokenizer/v320-00000000", {"tokenizer.json": tmp_path / "tokenizer.json"}, {"preimage": {}})
    return store


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chat", "sft/d1-00000000"], "unknown artifact 'sft/d1-00000000': did you mean 'tokenizer/v320-00000000"),
        (["chat", "../store/tokenizer/v320-00000000"], "is no address: write STAGE/NAME-DIGEST"),
        (["chat", "sft/.."], "is no address"),
        (["chat", "sft/\0"], "is no address"),
        (["chat", "tokenizer/v320-00000000"], "tokenizer/v320-00000000 is no model"),
        (["chat", "--directory", "/nowhere"], "no model in /nowhere"),
        (["chat", "-t", "nan", "tokenizer/v320-00000000"], "is no model"),
        (["explain", "../store/tokenizer/v320-00000000"], "is no address"),
        (["explain", "sft/d1-00000000"], "unknown artifact"),
        (["explain", "tokenizer/v320-00000000", "sft/"], "is no address"),
        (["plan", "micro", "seed=1_"], "pretrain.seed = '1_': needs a value of type int"),
        (["plan", "micro", "seed=1__0"], "pretrain.seed = '1__0'"),
        (["plan", "micro", "seed=٣"], "pretrain.seed = '٣'"),
        (["plan", "micro", "seed=" + "9" * 5000], "pretrain.seed: the number is too large"),
        (["plan", "micro", f"seed={LARGEST + 1}"], "pretrain.seed: the number is too large"),
        (["plan", "micro", "pretrain.depth=1000000000000"], "pretrain.depth = 1000000000000: must be at most 1000"),
        (["plan", "micro", "download.num_shards=1000000000"], "must be at most 100000"),
        (["plan", "micro", "rl.lr_frac=1e"], "rl.lr_frac = '1e': needs a number"),
        (["plan", "micro", "rl.lr_frac=inf"], "rl.lr_frac = inf"),
        (["plan", "micro", "download.url=a\0b"], "cannot be printed"),
        (["plan", "micro", "download.corpus=" + "a" * 300, "download.url=file:///a{index}", "download.validation_shard=1"], "download.corpus = "),
        (["plan", "micro", "sead=" + "a" * 300], "unknown knob 'sead': did you mean 'seed'"),
        (["plan", "micro", "--gpus", "٣xH100"], "--gpus '٣xH100'"),
        (["plan", "micro", "--only", "a" * 300], "unknown stage"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_a_sentence(store, tmp_path, capsys, words, said):
    home = [] if words[0] == "knobs" else ["--home", str(tmp_path / "home"), "--store", store.uri]
    assert main([*words, *home]) == 2
    error = capsys.readouterr().err
    assert said in error
    quoted, *_known = error.partition("there is ")  # what there is may be long
    assert len(quoted) < 900, "the value is quoted at a length that can be read"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((256, float("nan"), None), "temperature"), ((256, float("inf"), 50), "temperature"), ((256, -0.1, 50), "temperature"),
        ((256, "1", 50), "temperature"), ((256, 1.0, 0), "top_k"), ((256, 1.0, -1), "top_k"), ((256, 1.0, 2.5), "top_k"),
        ((0, 1.0, 50), "max_new_tokens"), ((-5, 1.0, 50), "max_new_tokens"), ((1.5, 1.0, 50), "max_new_tokens"),
    ],
)  # fmt: skip
def test_settings_that_no_answer_can_be_drawn_with_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name}="):
        check_settings(*arguments)


WORDS = st.sampled_from(
    ["plan", "explain", "knobs", "chat", "tiny", "micro", "--only", "--force", "--gpus", "8xH100", "seed=1", "depth=0", "-t"]
) | st.text(max_size=12)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=st.sampled_from(["plan", "explain", "knobs", "chat"]), words=st.lists(WORDS, max_size=4))
def test_no_words_give_a_traceback(store, tmp_path, capsys, command, words):
    if "-p" not in words and any(word.startswith(("-h", "--h")) for word in words):
        return  # help, or a home elsewhere
    try:
        code = main([command, *words, *(["--home", str(tmp_path / "home")] if command != "knobs" else [])])
    except SystemExit as end:
        code = end.code
    assert code in (0, 1, 2), (command, words)
    capsys.readouterr()


def nanochat(*words, **surroundings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **surroundings}
    return [sys.executable, "-m", "nanochat", *words], environment


@pytest.mark.parametrize("program", ["nanochat", "flows.cli"])
def test_a_reader_that_has_seen_enough_is_no_error(program):
    script = f"set -o pipefail; {sys.executable} -m {program} knobs | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("download: ")
    assert done.stdout.splitlines()[1] in ("0", "141")


def model_in(folder):
    import torch

    from nanochat.data.tokenizer import Tokenizer
    from nanochat.model.config import GPTConfig
    from nanochat.model.gpt import GPT
    from nanochat.model.weights import save_model

    tokenizer = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
    start, end = tokenizer.special("<|assistant_start|>"), tokenizer.special("<|assistant_end|>")
    model = GPT(GPTConfig.classic(1, tokenizer.vocab_size, 64, width=272, head_dim=16))
    model.init_weights(0)
    chain = [start, *"é".encode(), 0xFF, *b"!", end]
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(tokenizer.vocab_size, 272))
        for token, following in itertools.pairwise(chain):
            model.lm_head.weight[following, token] = 5.0
    save_model(model, folder, stage="rl")
    tokenizer.save(folder / "tokenizer.json")
    return folder


def test_a_chat_survives_bad_bytes_in_and_characters_that_cannot_be_shown(tmp_path):
    command, environment = nanochat("chat", "--directory", str(model_in(tmp_path)), "-t", "0")
    typed = b"caf\xe9 \xff\n/nonsense\n/etc/passwd is what?\n/help\nhello\n"
    for surroundings, shown in (({"PYTHONUTF8": "1"}, "é\ufffd!"), (ASCII, "??!")):
        done = subprocess.run(
            command, env={**environment, **surroundings}, input=typed, capture_output=True, check=False
        )
        said = done.stdout.decode()
        assert done.returncode == 0, done.stderr.decode()
        assert said.count(shown) == 3, said  # two questions and the one with slashes
        assert "there is no /nonsense" in said
        assert said.count("/clear  ") == 2


@pytest.mark.parametrize(("option", "value"), [("-t", "nan"), ("-k", "0"), ("-m", "-5"), ("-t", "-1")])
def test_a_chat_with_a_setting_out_of_range_does_not_begin(tmp_path, capsys, option, value):
    assert main(["chat", "--directory", str(tmp_path), f"{option}{value}", "-p", "hello"]) == 2
    assert f"={value}" in capsys.readouterr().err


@given(st.text(st.characters(categories=["Cs", "L", "So"]), max_size=8))
def test_half_a_surrogate_pair_costs_one_character(text):
    whole = whole_characters(text)
    whole.encode()
    kept = [letter for letter in whole if letter != "\ufffd" and ord(letter) < 0x10000]
    assert kept == [letter for letter in text if not 0xD800 <= ord(letter) < 0xE000 and ord(letter) < 0x10000]
    assert whole_characters("\ud83d\ude00") == "😀"


HARMFUL = {
    "PIP_USER": "1", "PIP_TARGET": "/elsewhere", "PIP_PREFIX": "/elsewhere", "PIP_REQUIRE_VIRTUALENV": "1",
    "PYTHONHOME": "/elsewhere", "PYTHONPATH": "/elsewhere", "VIRTUAL_ENV": "/elsewhere", "CONDA_PREFIX": "/elsewhere",
    "PIP_DRY_RUN": "1", "UV_SYSTEM_PYTHON": "1", "UV_TARGET": "/elsewhere", "UV_DRY_RUN": "1", "UV_NEW_IN_2027": "1", "UV_PROJECT_ENVIRONMENT": "/elsewhere",
}  # fmt: skip
MIRRORS = {"PIP_INDEX_URL": "https://mirror.example/simple", "UV_DEFAULT_INDEX": "https://mirror.example/simple",
           "UV_INDEX_INTERNAL_PASSWORD": "x", "UV_CACHE_DIR": "/cache", "UV_HTTP_TIMEOUT": "300",
           "SSL_CERT_FILE": "/certificates.pem", "https_proxy": "http://proxy.example:3128"}  # fmt: skip


def test_the_makefile_hears_where_packages_come_from_and_not_where_they_go(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "requirements.lock").write_text("", encoding="utf-8")
    recorder = f'#!/bin/sh\nenv > "{tmp_path}/environment"\necho "$0 $@" >> "{tmp_path}/calls"\n'
    fakes = {
        "python": recorder
        + 'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/uv"; fi\n',
        "cargo": "#!/bin/sh\n",
    }
    for name, text in fakes.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    around = {**os.environ, **HARMFUL, **MIRRORS, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    python = f"PYTHON={tmp_path / 'bin' / 'python'}"
    make = ["make", "--no-print-directory", python, ".venv/uv/bin/uv"]
    said = subprocess.run(make, cwd=tmp_path, env=around, capture_output=True, text=True, encoding="utf-8", check=True)
    assert "about 6 GB" in said.stdout.splitlines()[0]
    assert "minutes" in said.stdout.splitlines()[1]
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text("utf-8").splitlines())
    assert {name: seen.get(name) for name in MIRRORS} == MIRRORS
    assert {name: value for name in HARMFUL if (value := seen.get(name, "")) not in ("", "0")} == {}
    words = (tmp_path / "calls").read_text("utf-8").splitlines()[-1].split()
    assert {"--target=", "--root=/", f"--prefix={tmp_path}/.venv/uv", "--no-user"} <= set(words)  # before a pip.conf
    again = subprocess.run(make, cwd=tmp_path, env=around, capture_output=True, text=True, encoding="utf-8", check=True)
    assert "6 GB" not in again.stdout


def test_the_licence_that_is_declared_is_there():
    assert "MIT License" in (ROOT / "LICENSE").read_text("utf-8")


def test_a_home_that_is_a_file_is_said_to_be_one(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for home in ("file", "file/inside"):
        assert cli.main(["ls", "--home", str(tmp_path / home)]) in (0, 1, 2)
    assert main(["run", "micro", "--only", "task_data", "--home", str(tmp_path / "file")]) in (1, 2)
    assert "file" in capsys.readouterr().err


def test_a_home_of_a_user_that_is_not_there_is_refused_in_every_command(monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_HOME", "~nobody-here/nc")
    with pytest.raises(SystemExit) as end:
        main(["plan", "micro"])
    assert end.value.code == 2
    assert "--home" in capsys.readouterr().err
