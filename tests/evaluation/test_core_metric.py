"""CORE asks what the reference asks, and batching with shared beginnings changes no answer."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch

from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation import core_metric
from nanochat.evaluation.core_bundle import INDEX, CoreTask, load_examples, load_tasks, prompts
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.training.distributed import World

BYTES = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
CHOICE = CoreTask("choice", Path("choice.jsonl"), "multiple_choice", 2, "\nAnswer: ", 0.25)
SCHEMA = CoreTask("schema", Path("schema.jsonl"), "schema", 1, " ", 0.5)
LANGUAGE = CoreTask("language", Path("language.jsonl"), "language_modeling", 1, "=", 0.0)


def random_model(sequence_len=256, **features) -> GPT:
    """A model that prefers something: its head, which starts at zero, is random too."""
    model = GPT(GPTConfig(sequence_len, BYTES.vocab_size, 2, 2, 1, 32, **features))
    model.init_weights(seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
        kept = BYTES.encode("abcde")
        model.lm_head.weight[[i for i in range(BYTES.vocab_size) if i not in kept]] *= 0.1  # it mostly says a to e
    return model


def examples(kind: str, count: int) -> list[dict]:
    dice = random.Random(kind)
    word = lambda: "".join(dice.choice("abcde") for _ in range(dice.randint(1, 9)))  # noqa: E731
    text = lambda most: " ".join(word() for _ in range(dice.randint(1, most)))  # noqa: E731
    made = []
    for _ in range(count):
        if kind == "multiple_choice":
            choices = [text(4) for _ in range(dice.randint(2, 5))]
            made.append({"query": text(12), "choices": choices, "gold": dice.randrange(len(choices))})
        elif kind == "schema":
            made.append({"context_options": [text(8), text(8)], "continuation": text(3), "gold": dice.randrange(2)})
        else:
            made.append({"context": text(12) + " ", "continuation": dice.choice("abcde")})
    return made


def artifact_of(folder: Path, *tasks: CoreTask, count: int = 12) -> Path:
    """What core_data writes."""
    for task in tasks:
        lines = [json.dumps(example) for example in examples(task.kind, count)]
        (folder / task.path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    listed = [
        {**dataclasses.asdict(task), "file": task.path.name, "path": None, "baseline": task.baseline * 100}
        for task in tasks
    ]
    (folder / INDEX).write_text(json.dumps({"tasks": listed, "files": {}}), encoding="utf-8")
    return folder


@torch.no_grad()
def one_at_a_time(model: GPT, task: CoreTask, data: list[dict], index: int) -> bool:
    """The slow twin: whole rows, one by one, no cache; written from the rules alone."""
    texts = prompts(task, data, index)
    rows = [[BYTES.bos, *BYTES.encode(text)] for text in texts]
    context = model.config.sequence_len
    if task.kind == "language_modeling":
        start, row = len(rows[0]), rows[1]
        cut = max(len(row) - context, 0)
        row, start = row[:1] + row[1 + cut :], start - cut
        said = model(torch.tensor([row]))[0].argmax(-1).tolist()
        return said[start - 1 : -1] == row[start:]
    columns = list(zip(*(row if task.kind == "multiple_choice" else row[::-1] for row in rows), strict=False))
    same = next(i for i, column in enumerate(columns) if len(set(column)) > 1)
    means = []
    for row in rows:
        start = same if task.kind == "multiple_choice" else len(row) - same
        cut = max(len(row) - context, 0)
        kept = torch.tensor([row[:1] + row[1 + cut :]])
        losses = model.token_losses(kept[:, :-1], kept[:, 1:])[0]
        means.append(losses[max(start - cut, 1) - 1 :].mean().item())
    return means.index(min(means)) == data[index]["gold"]


@pytest.mark.parametrize("task", [CHOICE, SCHEMA, LANGUAGE], ids=lambda task: task.kind)
@pytest.mark.parametrize("context", [256, 64], ids=["fits", "cut"])
@pytest.mark.parametrize("smear", [False, True])
def test_batched_answers_equal_those_of_a_slow_twin(task, context, smear):
    model, data = random_model(context, smear=smear, residual_scalars=smear), examples(task.kind, 40)
    expected = [one_at_a_time(model, task, data, index) for index in range(len(data))]
    assert 0 < sum(expected) < len(expected)
    for tokens_per_batch in (1, 1000, 100_000):
        score, _ = core_metric.ask_task(model, BYTES, task, data, len(data), tokens_per_batch)
        assert (score.correct, score.n) == (sum(expected), len(expected))
    questions = [asked(task, data, index, context) for index in range(len(data))]
    assert core_metric.answer(model, questions) == expected


@pytest.mark.parametrize("task", [CHOICE, SCHEMA, LANGUAGE], ids=lambda task: task.kind)
def test_ranks_ask_every_example_once_and_answer_as_one_does(task):
    model, data = random_model(), examples(task.kind, 20)
    texts = [prompts(task, data, index) for index in range(len(data))]
    golds = [example.get("gold", 0) for example in data]
    seen: list[int] = []

    def answers(world: World) -> list[bool]:
        return core_metric.verdicts(model, BYTES, task.kind, texts, golds, 1000, seen.append, world)

    alone = answers(World())
    assert 0 < sum(alone) < len(alone)
    for size in (2, 3, 25):  # more ranks than examples too
        seen.clear()
        shares = [answers(World(rank, size)) for rank in range(size)]  # no process group: each has only its own
        assert list(map(sum, zip(*shares, strict=True))) == alone
        assert max(seen) == len(data)


def asked(task: CoreTask, data: list[dict], index: int, context: int) -> core_metric.Question:
    rows = [[BYTES.bos, *BYTES.encode(text)] for text in prompts(task, data, index)]
    return core_metric.question(task.kind, rows, data[index].get("gold", 0), context)


def test_prompts_are_those_of_the_reference():
    data = [{"query": f"q{i}", "choices": [f"a{i}", f"b{i}"], "gold": i % 2} for i in range(5)]
    first, second = random.Random(1234 + 3).sample([0, 1, 2, 4], 2)
    shots = "".join(f"q{i}\nAnswer: {'ab'[i % 2]}{i}\n\n" for i in (first, second))
    assert prompts(CHOICE, data, 3) == [shots + "q3\nAnswer: a3", shots + "q3\nAnswer: b3"]
    data = [
        {"context_options": ["x", "y"], "continuation": "z", "gold": 1},
        {"context_options": ["u", "v"], "continuation": "w", "gold": 0},
    ]
    assert prompts(SCHEMA, data, 0) == ["u w\n\nx z", "u w\n\ny z"]
    data = [{"context": " c ", "continuation": "d"}, {"context": "e", "continuation": "f"}]
    assert prompts(LANGUAGE, data, 0) == ["e=f\n\nc=", "e=f\n\nc=d"]
    spaced = dataclasses.replace(LANGUAGE, delimiter=" ")
    assert prompts(spaced, data, 0) == ["e f\n\nc", "e f\n\nc d"]


def test_scored_tokens_are_the_tail_the_common_end_and_the_continuation():
    choice = core_metric.question("multiple_choice", [[9, 1, 2, 3], [9, 1, 4, 5, 6]], 1, 100)
    assert choice.spans == ((2, 4), (2, 5))
    assert (choice.shared, choice.num_read) == (2, 2 + 1 + 2 + 1)  # the last tokens are not read, one is repeated
    schema = core_metric.question("schema", [[9, 1, 7, 8], [9, 2, 3, 7, 8]], 0, 100)
    assert schema.spans == ((2, 4), (3, 5))
    assert core_metric.question("language_modeling", [[9, 1], [9, 1, 2, 3]], 0, 100).spans == ((2, 4),)


def test_a_prompt_beyond_the_context_keeps_its_beginning_and_its_end():
    cut = core_metric.question("multiple_choice", [[9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 6, 7, 8]], 0, 5)
    assert cut.rows == ((9, 2, 3, 4, 5), (9, 3, 6, 7, 8))
    assert cut.spans == ((3, 5), (2, 5))
    assert cut.shared == 1  # <|bos|>; nothing else is at the same place
    assert core_metric.question("language_modeling", [[9, 1, 2, 3], [9, 1, 2, 3, 4]], 0, 4).rows == ((9, 2, 3, 4),)
    longer_than_all = core_metric.question("schema", [[9, 1, 7, 8, 5, 6], [9, 2, 7, 8, 5, 6]], 0, 4)
    assert longer_than_all.rows == ((9, 8, 5, 6), (9, 8, 5, 6))
    assert longer_than_all.spans == ((1, 4), (1, 4))


def test_an_option_that_begins_another_is_still_scored():
    inner = core_metric.question("multiple_choice", [[9, 1, 2], [9, 1, 2, 3]], 0, 100)
    assert inner.spans == ((2, 3), (2, 4))
    assert core_metric.question("schema", [[9, 1, 2], [9, 1, 2]], 0, 100).spans == ((1, 3), (1, 3))


def test_a_batch_keeps_to_its_tokens_and_every_question_is_asked_once():
    data = examples("multiple_choice", 30)
    questions = [asked(CHOICE, data, index, 256) for index in range(30)]
    made = list(core_metric.batches(questions, 2000))
    assert sorted(map(id, (q for _, batch in made for q in batch))) == sorted(map(id, questions))
    assert [done for done, _ in made][-1] == 30
    for _, batch in made:
        lines = [core_metric.Line.of(q.rows[0][: q.shared], [row[q.shared : -1] for row in q.rows]) for q in batch]
        assert [len(line.tokens) for line in lines] == [question.num_read for question in batch]
        assert len(batch) == 1 or len(lines) * max(len(line.tokens) for line in lines) <= 2000


def test_a_limit_takes_the_first_of_the_reference_shuffle(tmp_path):
    (task,) = load_tasks(artifact_of(tmp_path, LANGUAGE))
    order = examples("language_modeling", 12)
    random.Random(1337).shuffle(order)
    assert load_examples(task, 5) == order[:5]
    assert load_examples(task, 1) == order[:2]  # one to ask, one as a shot
    score, _ = core_metric.ask_task(random_model(), BYTES, task, order[:2], 1, 1000)
    assert score.n == 1


def test_the_tasks_of_an_artifact_come_in_their_order(tmp_path):
    tasks = [dataclasses.replace(task, path=tmp_path / task.path) for task in (CHOICE, SCHEMA, LANGUAGE)]
    assert load_tasks(artifact_of(tmp_path, CHOICE, SCHEMA, LANGUAGE)) == tasks


@pytest.mark.parametrize("content", [None, "{}", '{"tasks": 3}', '{"tasks": [{"label": "a"}]}'])
def test_what_is_no_artifact_of_core_data_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / INDEX).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"is no artifact of core_data \(core\.json: .*make it again"):
        load_tasks(tmp_path)


def test_too_few_rows_for_the_shots_and_a_row_that_lacks_something_are_refused(tmp_path):
    choice, language = load_tasks(artifact_of(tmp_path, CHOICE, LANGUAGE, count=2))
    with pytest.raises(ValueError, match="2 examples are too few for 2 shots; leave 'choice' out"):
        load_examples(choice, 10)
    language.path.write_text('{"context": "a", "continuation": "b"}\n{"context": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: no continuation, which a language_modeling task needs"):
        load_examples(language, 10)


def test_the_digest_changes_with_the_questions():
    model, data = random_model(), examples("language_modeling", 6)
    ask = lambda some: core_metric.ask_task(model, BYTES, LANGUAGE, some, 6, 1000)[1]  # noqa: E731
    assert ask(data) == ask(data)
    assert ask(data) != ask([*data[:5], {**data[5], "continuation": "another"}])


def test_a_line_separator_within_a_text_is_a_part_of_it(tmp_path):
    (task,) = load_tasks(artifact_of(tmp_path, LANGUAGE))
    rows = [{"context": f"a{cut}é", "continuation": "c"} for cut in ("\u2028", "\u2029", "\x85")]
    task.path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert sorted(map(str, load_examples(task, 10))) == sorted(map(str, rows))
