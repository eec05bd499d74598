"""Conversations that a large model writes: checked, each once, and taken up again. The server is a real one, with faults."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading

import pytest

from flows import cli
from nanochat import cli as library
from nanochat.data.chat_endpoint import ATTEMPTS, Endpoint
from nanochat.data.identity_prompts import ABOUT, prompt
from nanochat.data.identity_writer import ASKED_BESIDES, ASKED_PER_LINE, WORKERS, conversation, write

KEY = "sk-SECRET-1234"


def talk(*said):
    roles = ("user", "assistant") * len(said)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]}


class Model:
    """What the server saw, how it answers, and what goes wrong with the next requests, in order."""

    def __init__(self):
        self.seen, self.faults, self.bodies, self.lock = [], [], [], threading.Lock()
        self.answer = lambda number: json.dumps(talk(f"Question {number}?", "An answer."))
        self.most_at_once = self.under_way = 0
        self.all_here = threading.Barrier(1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        model = self.server.model
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with model.lock:
            number = len(model.seen)
            model.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **asked})
            fault = model.faults.pop(0) if model.faults else ""
        model.all_here.wait(20)
        self.close_connection = True
        if fault == "reset":
            return
        if fault[:3].isdigit():
            self.send(int(fault[:3]), f'{{"error": "no such {self.headers.get("Authorization")}"}}'.encode(), fault[4:])
            return
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": model.answer(number)}}]}).encode()
        if fault == "cut":
            self.send(200, body[: len(body) // 2], length=len(body))
        else:
            self.send(200, {"garbage": b"<html>", "other": b'{"text": "sk-SECRET-1234"}'}.get(fault, body))

    def send(self, status, body, retry_after="", length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def model():
    with contextlib.ExitStack() as stack:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        stack.callback(server.server_close)
        server.daemon_threads, server.model = True, Model()
        server.model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield server.model


def ask_of(model, waits=None):
    endpoint = Endpoint(model.url, "large", KEY)
    return lambda text: endpoint.ask(text, (lambda seconds: None) if waits is None else waits.append)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_endpoint_is_asked_as_openai_s_api_wants_it(model):
    for address in (model.url, f"{model.url}/", f"{model.url}/chat/completions", f"{model.url}?version=1"):
        assert conversation(Endpoint(address, "large", KEY).ask("Write."))
    assert [seen["path"] for seen in model.seen] == [*["/v1/chat/completions"] * 3, "/v1/chat/completions?version=1"]
    assert model.seen[0]["model"] == "large"
    assert model.seen[0]["messages"] == [{"role": "user", "content": "Write."}]
    assert model.seen[0]["key"] == f"Bearer {KEY}"
    Endpoint(model.url, "large").ask("Write.")
    assert model.seen[-1]["key"] is None
    model.answer = lambda number: None  # a refusal, in some APIs
    assert Endpoint(model.url, "large").ask("Write.") == ""


def test_what_may_pass_is_tried_again(model, tmp_path):
    waits = []
    model.faults = ["429 7", "500", "reset", "cut", "garbage", "503"]
    written = write(ask_of(model, waits), tmp_path / "out.jsonl", 12)
    assert (written.lines, written.found, written.duplicates, written.unusable) == (12, 0, 0, 0)
    assert len(lines(tmp_path / "out.jsonl")) == 12
    assert len(waits) == 6
    assert 7.0 in waits
    assert all(0.5 <= wait < 60 for wait in waits)


def test_what_does_not_pass_is_given_up_and_what_was_written_stays(model, tmp_path):
    out = tmp_path / "out.jsonl"
    write(ask_of(model), out, 3)
    model.faults = ["500"] * 100
    with pytest.raises(ConnectionError, match=f"gave up after {ATTEMPTS} attempts: HTTP Error 500"):
        write(ask_of(model), out, 4)
    model.faults = ["429 5000"]
    with pytest.raises(ConnectionError, match="asks to be left alone for 5,000 s"):
        write(ask_of(model), out, 4)
    assert len(lines(out)) == 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", r"the server refuses: 401 .*Bearer \*\*\*.*; set OPENAI_API_KEY"),
        ("404", r"the server refuses: 404 .*; check --endpoint and --model"),
        ("other", r"its answer has no choices\[0\].message.content: .*\*\*\*.*; does it speak as OpenAI's API"),
    ],
)
def test_what_stays_is_refused_at_once_and_without_the_key(model, tmp_path, fault, said):
    model.faults = [fault]
    with pytest.raises(ValueError, match=said) as error:
        write(ask_of(model), tmp_path / "out.jsonl", 1)
    assert "SECRET" not in str(error.value)
    assert "SECRET" not in repr(Endpoint(model.url, "large", KEY))
    assert len(model.seen) == 1


@pytest.mark.parametrize(
    ("address", "name", "key", "said"),
    [
        ("host/v1", "m", "", "--endpoint 'host/v1': give an address"), ("file:///x", "m", "", "--endpoint"),
        ("http:///v1", "m", "", "names no host"), ("http://host", " ", "", "--model is empty"),
        ("http://host", "m", "a\nb", "OPENAI_API_KEY holds a character"), ("http://host", "m", "ключ", "OPENAI_API_KEY"),
    ],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_refused(address, name, key, said):
    with pytest.raises(ValueError, match=said):
        Endpoint(address, name, key)


def test_several_requests_are_under_way_at_a_time(model, tmp_path):
    model.all_here = threading.Barrier(WORKERS)  # none is answered before all are there
    write(ask_of(model), tmp_path / "out.jsonl", WORKERS)
    assert len({seen["messages"][0]["content"] for seen in model.seen}) == WORKERS


def test_the_file_is_taken_up_where_it_was_left(model, tmp_path):
    out = tmp_path / "out.jsonl"
    write(ask_of(model), out, 5)
    first = out.read_bytes()
    with out.open("ab") as file:
        file.write(b'{"messages": [{"role": "user", "con')  # a process was killed
    written = write(ask_of(model), out, 9)
    assert (written.lines, written.found) == (9, 5)
    assert out.read_bytes().startswith(first)
    assert len(lines(out)) == 9
    out.write_bytes(out.read_bytes().rstrip())  # an editor took the last end of line
    asked = len(model.seen)
    assert write(ask_of(model), out, 9).lines == 9
    assert write(ask_of(model), out, 4).lines == 9
    assert len(model.seen) == asked
    assert {seen["messages"][0]["content"] for seen in model.seen} == {prompt(ABOUT, 1, number) for number in range(9)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}\n", "line 1: messages: needs a list"), (b"x\n", "line 1: not JSON"), (b"my notes", "line 1: not JSON"),
        (2 * (json.dumps(talk("a", "b")).encode() + b"\n"), "line 2: is there twice"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_stays(model, tmp_path, content, said):
    (tmp_path / "out").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        write(ask_of(model), tmp_path / "out", 5)
    assert (tmp_path / "out").read_bytes() == content
    assert not model.seen


def test_duplicates_and_unusable_answers_are_left_out_and_counted(model, tmp_path):
    answers = {0: "Sorry, no.", 1: json.dumps(talk("Question 5?", "AN  answer.")), 2: '{"messages": []}'}
    usual = model.answer
    model.answer = lambda number: answers.get(number, f"```json\n{usual(number)}\n```")
    written = write(ask_of(model), tmp_path / "out.jsonl", 20)
    assert (written.lines, written.duplicates, written.unusable) == (20, 1, 2)
    assert len({str(line) for line in lines(tmp_path / "out.jsonl")}) == 20


def test_a_model_that_writes_nothing_of_use_is_given_up(model, tmp_path):
    model.answer = lambda number: "Sure! Here is a conversation."
    with pytest.raises(
        ValueError,
        match=r"0 of 2 conversations after 26 requests, 0 answers .* 26 could not be used .the answer holds no object",
    ):
        write(ask_of(model), tmp_path / "out.jsonl", 2)
    assert len(model.seen) == 2 * ASKED_PER_LINE + ASKED_BESIDES
    model.answer = lambda number: json.dumps(talk("Hi", "Hello"))
    with pytest.raises(
        ValueError, match=r"1 of 2 conversations .* 25 answers were there already .*take another --model or --seed"
    ):
        write(ask_of(model), tmp_path / "out.jsonl", 2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "no object"), ("} {", "no object"), ("{a}", "not JSON"), ("[1]", "no object"), ('{"messages": 1}', "needs a list"),
        ('{"messages": ["a", "b"]}', "needs a list"), (json.dumps(talk("a")), "in turn, the assistant last"),
        (json.dumps(talk("a", "b", "c")), "in turn"), (json.dumps(talk(*"ab" * 11)), "2 to 20"),
        (json.dumps({"messages": talk("a", "b")["messages"][::-1]}), "in turn"), (json.dumps(talk("a", " ")), "beside blanks"),
        (json.dumps(talk("a", "b" * 4001)), "1 to 4,000 characters"), (json.dumps(talk("a", 5)), "content = 5: needs a text"),
        (json.dumps(talk("a", "\ud83d")), "half of a character"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_conversation_is_refused(answer, said):
    with pytest.raises(ValueError, match=said):
        conversation(answer)


def test_a_conversation_is_found_in_what_stands_around_it():
    wanted = talk("Wer bist du?", "Ich bin nanochat. 😀")["messages"]
    row = {"messages": [{**message, "content": f" {message['content']}\n", "name": "x"} for message in wanted]}
    assert conversation(f"Here it is:\n```json\n{json.dumps(row)}\n```\nDone.") == wanted


def test_prompts_differ_in_topic_persona_and_opening():
    prompts = [prompt("We.", 1, number) for number in range(1000)]
    assert len(set(prompts)) > 990
    assert prompts == [prompt("We.", 1, number) for number in range(1000)]
    assert prompts[0] != prompt("We.", 2, 0)
    for begins in ("The conversation is about ", "The user is ", "or in the manner of: "):
        assert len({text.split(begins)[1].split("\n")[0].split(";")[0] for text in prompts}) >= 30


@pytest.mark.parametrize("main", [cli.main, library.main], ids=["nanochat", "python -m nanochat"])
def test_the_command_writes_the_file_and_shows_no_key(model, tmp_path, monkeypatch, capsys, main):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    (tmp_path / "about.txt").write_text("The assistant is called Ada.\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    words = ["identity", "--endpoint", model.url, "--model", "large", "--out", str(out), "--count", "2"]
    assert main([*words, "--about", str(tmp_path / "about.txt")]) == 0
    assert len(lines(out)) == 2
    assert {seen["key"] for seen in model.seen} == {f"Bearer {KEY}"}
    assert all(seen["messages"][0]["content"].startswith("The assistant is called Ada.\n\n") for seen in model.seen)
    said = capsys.readouterr()
    assert "2 of 2 conversations; 0 duplicates and 0 unusable answers left out" in said.out
    model.faults = ["401"]
    assert main([*words[:-1], "3"]) == 2
    assert "the server refuses: 401" in capsys.readouterr().err
    (tmp_path / "about.txt").write_text(" \n", encoding="utf-8")
    assert main([*words, "--about", str(tmp_path / "about.txt")]) == 2
    assert "about.txt: is empty" in capsys.readouterr().err
    assert main([*words[:-1], "0"]) == 2
    assert "--count 0: ask for at least one" in capsys.readouterr().err
    assert "SECRET" not in said.out + said.err + out.read_text(encoding="utf-8")
