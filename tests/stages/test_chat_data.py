"""The rows of midtraining and SFT are those of a slow twin, whatever the parts and threads; a user's file is checked."""

import json

import numpy as np
import pytest

from nanochat import pipeline
from nanochat.artifacts.metrics import Metrics
from nanochat.data import own_conversations
from nanochat.data.chat_template import render
from nanochat.data.conversation_packing import ConversationRows, pack
from nanochat.data.tokenizer import Tokenizer
from nanochat.pipeline import MidtrainData
from nanochat.stages.chat_data import gather, held_out, run
from nanochat.tasks import TASKS
from nanochat.tasks.identity import Identity
from nanochat.tasks.mixture import Mixture, parse_mixture
from nanochat.workflow.stage import StageContext

TOKENIZER = Tokenizer((*(bytes([byte]) for byte in range(256)), b"th", b" t", b"er"))
MIXTURE = "arithmetic:50, identity:30"


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def made(stage, folder):
    """The parts of the stage and its numbers, as the runner would have them made."""
    (folder / "tokenizer").mkdir(parents=True)
    TOKENIZER.save(folder / "tokenizer" / "tokenizer.json")
    parts = []
    for part in range(stage.num_parts()):
        out = folder / f"part{part}"
        out.mkdir()
        inputs = {"tokenizer": folder / "tokenizer", "task_data": folder}
        run(stage, StageContext(inputs, {}, out, folder, Metrics(None), part=part))
        parts.append(out)
    ctx = StageContext({}, {stage.name: tuple(parts)}, folder, folder, Metrics(None))
    return parts, gather(stage, ctx)


def test_the_rows_are_those_of_one_conversation_at_a_time(tmp_path):
    stage = MidtrainData(mixture=MIXTURE, sequence_len=64, part_size=30, seed=3, threads=2)
    (held, *train), numbers = made(stage, tmp_path)
    assert len(train) == 3  # of 30, 30 and 20 conversations
    everything = list(Mixture(parse_mixture(MIXTURE), "train", None, 3))
    for number, part in enumerate(train):
        some = everything[30 * number : 30 * (number + 1)]
        expected = pack((render(TOKENIZER, one["messages"]) for one in some), 64, TOKENIZER.vocab_size, TOKENIZER.bos)
        assert np.array_equal(np.load(part / "tokens.npy"), expected.tokens)
        assert np.array_equal(np.load(part / "labels.npy"), expected.labels)
    tested = Mixture(held_out(parse_mixture(MIXTURE)), "test", None, 3)
    assert ConversationRows([held], 64).counts.conversations == len(tested) == 80
    assert numbers["conversations"] == 80
    assert numbers["rows"] == sum(len(np.load(part / "tokens.npy")) for part in train)


def test_half_a_character_and_other_letters_are_encoded_as_ever(tmp_path):
    file = tmp_path / "own.jsonl"
    texts = ["the 漢字 🙂 <|bos|>", "e\u0301 \u200f", "ther\x00"]
    file.write_text(
        "\n".join(json.dumps([user(text), assistant(text)]) for text in [*texts, "held?"]), encoding="utf-8"
    )
    stage = MidtrainData(mixture=f"jsonl:{file}", sequence_len=64).resolved()
    parts, _ = made(stage, tmp_path / "made")
    conversations = own_conversations.split(own_conversations.read(file))
    for part, some in zip(reversed(parts), conversations, strict=True):
        order = Mixture({"identity": len(some)}, "train", None, 1).order  # the same shuffle
        expected = pack(
            (render(TOKENIZER, some[i]["messages"]) for i in order), 64, TOKENIZER.vocab_size, TOKENIZER.bos
        )
        assert np.array_equal(np.load(part / "tokens.npy"), expected.tokens)


def test_tasks_without_held_out_conversations_are_left_out_of_the_validation(monkeypatch):
    class Lectures(Identity):
        splits = ("train",)
        name = ""

    Lectures.name = "lectures"  # not in the class, which would enter it in the list for all tests
    monkeypatch.setitem(TASKS, "lectures", Lectures)
    assert held_out(parse_mixture("lectures:40, arithmetic:20")) == {"arithmetic": 20}
    assert held_out(parse_mixture("arithmetic:4000, identity:1000")) == {"arithmetic": 410, "identity": 102}


def test_a_file_of_ones_own_has_the_same_address_wherever_it_lies_and_another_when_it_changes(tmp_path):
    addresses = []
    for folder, text in (("a", "ja"), ("b", "ja"), ("c", "nein")):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "my talk.jsonl"
        lines = [json.dumps({"messages": [user(f"Frage {i}"), assistant(text)]}) for i in range(60)]
        file.write_text("\n".join(lines), encoding="utf-8")
        stage = MidtrainData(mixture=f"identity:5, jsonl:{file}:200").resolved()
        assert str(tmp_path) not in str(stage.values("identity"))
        assert stage.resolved() == stage
        addresses.append(stage.mixture)
    assert addresses[0] == addresses[1] != addresses[2]
    assert addresses[0].startswith("identity:5, jsonl:my-talk@")
    assert addresses[0].endswith(":200")
    assert MidtrainData(mixture=f"jsonl:{file}").resolved().mixture.endswith(":59")  # all but those held out


def test_a_second_file_is_looked_at_too_and_any_folder_may_hold_them(tmp_path):
    stage, names = MidtrainData(mixture="identity:5"), []
    for folder in ("a, b=c", "d"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "own.jsonl"
        file.write_text(
            "\n".join(json.dumps([user(folder + str(i)), assistant("a")]) for i in range(9)), encoding="utf-8"
        )
        link = tmp_path / f"{len(names)}.jsonl"  # a mixture is separated by commas
        link.symlink_to(file)
        stage = stage.replaced(mixture=f"{stage.mixture}, jsonl:{link}").resolved()
        names.append(f"{len(names)}@")
    assert all(name in stage.mixture for name in names)
    assert str(tmp_path) not in stage.mixture
    assert len(made(stage.replaced(sequence_len=64), tmp_path / "made")[0]) == 2


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(json.dumps([user(str(i)), assistant("a")]) for i in range(9)), encoding="utf-8")
    stage = MidtrainData(mixture=f"jsonl:{file}", sequence_len=64).resolved()
    with file.open("a", encoding="utf-8") as more:
        more.write("\n" + json.dumps([user("x"), assistant("y")]))
    with pytest.raises(ValueError, match="has changed since the run was planned"):
        made(stage, tmp_path / "made")


CALL = {"id": "1", "type": "function", "function": {"name": "python", "arguments": '{"code": "6*7"}'}}


def test_openai_tool_calls_and_parts_become_parts_of_one_turn(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        user([{"type": "text", "text": "6 times "}, {"type": "text", "text": "7?"}]),
        assistant("Let me see. ", tool_calls=[CALL]),
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        assistant("It is 42."),
        user("Thanks"),
        assistant([{"type": "text", "text": "You are "}, {"type": "text", "text": "welcome."}]),
    ]
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"messages": messages, "source": "me"}), encoding="utf-8")
    (read,) = own_conversations.read(file)
    parts = [
        {"type": "text", "text": "Let me see. "},
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "It is 42."},
    ]
    assert read["messages"] == [
        {"role": "system", "content": "Be brief."},
        user("6 times 7?"),
        assistant(parts),
        user("Thanks"),
        assistant("You are welcome."),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('"hello"', r"line 2: needs \{.messages.: \[...\]\}"),
        ("{}", "line 2: needs"),
        (json.dumps([]), "line 2: needs"),
        (json.dumps(["hello"]), "line 2: needs"),
        (json.dumps([user("a")]), "line 2: .*ends with a message of the assistant"),
        (json.dumps([assistant("a")]), "line 2: message 0 .assistant.: it is the turn of the user"),
        (json.dumps([user("a"), assistant("b"), assistant("c")]), "line 2: message 2 .assistant.: .*take turns"),
        (json.dumps([user("a"), user("b"), assistant("c")]), "line 2: message 1 .user.: it is the turn"),
        (json.dumps([{"role": "bot", "content": "a"}]), "line 2: message 0 .bot.: the role must be"),
        (json.dumps([user(None), assistant("b")]), "line 2: message 0 .user.: content = None"),
        (json.dumps([user([{"type": "image_url"}]), assistant("b")]), "a part of type 'image_url': only text"),
        (json.dumps([user("a"), {"role": "tool", "content": "1"}]), "message 1 .tool.: answers no tool call"),
        (
            json.dumps([user("a"), assistant(None, tool_calls=[{"function": {"name": "search"}}])]),
            "message 1 .assistant.: tool_calls: function 'search': the model has one tool, called python",
        ),
        (
            json.dumps([user("a"), assistant(None, tool_calls=[{"function": {"name": "python", "arguments": "{"}}])]),
            "arguments are not JSON",
        ),
        (
            json.dumps([user("a"), assistant(None, tool_calls=[{"function": {"name": "python", "arguments": {}}}])]),
            "needs one text called code, expression, input",
        ),
        (json.dumps([user("a"), assistant(None, tool_calls=[CALL, CALL])]), "one call a message"),
    ],
)
def test_a_line_that_is_no_conversation_is_named_before_anything_is_made(tmp_path, line, message):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps([user("a"), assistant("b")]) + "\n" + line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        MidtrainData(mixture=f"jsonl:{file}:3").resolved()


def test_files_that_are_not_there_or_hold_nothing_are_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text("\n", encoding="utf-8")
    (tmp_path / "one.jsonl").write_text(json.dumps([user("a"), assistant("b")]), encoding="utf-8")
    for name, message in (("no.jsonl", "there is no such file"), ("none.jsonl", "no conv"), ("one.jsonl", "two diff")):
        with pytest.raises(ValueError, match=message):
            MidtrainData(mixture=f"jsonl:{tmp_path / name}").resolved()


@pytest.mark.parametrize("stage", [pipeline.MidtrainData, pipeline.SftData])
def test_a_bad_mixture_is_refused_when_the_stage_is_declared(stage):
    with pytest.raises(ValueError, match=f"{stage.name}.mixture: unknown task 'identty': did you mean 'identity'"):
        stage(mixture="identty:5")
