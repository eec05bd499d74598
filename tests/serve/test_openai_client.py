"""OpenAI's own client talks to the server: answers whole and streamed, tools shown, log-probabilities, errors.

The model's answers are known. Not covered: what the engine draws (tests/inference).
"""

import openai
import pytest

from nanochat.inference.rows import SHARED_STEP
from tests.serve.server import ANSWER, TOKENIZER, make_model, served

QUESTION = [{"role": "user", "content": "What is 6*7?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(make_model(tmp_path_factory.mktemp("table"))) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def chat(client, messages=QUESTION, **more):
    return client.chat.completions.create(model="nanochat", messages=messages, **{"temperature": 0, **more})


def put_together(chunks):
    """Text by choice, finish reasons, tools in their places, and the chunk that tells the tokens."""
    texts, finishes, tools, last = {}, {}, [], None
    for chunk in chunks:
        last = chunk
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            finishes.setdefault(choice.index, choice.finish_reason)
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
            if tool := getattr(choice.delta, "tool", None):
                tools.append((texts[choice.index], tool))
    return texts, finishes, tools, last


def test_an_answer_has_the_call_of_the_calculator_in_its_text(client):
    answer = chat(client)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    prompt = len("What is 6*7?") + 4
    said = len("6*7") + 2 + len("42") + 2 + len("OK.") + 1
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt, said, prompt + said)
    assert answer.timings["first_token_seconds"] <= answer.timings["total_seconds"]


def test_a_stream_put_together_is_the_whole_answer(client):
    texts, finishes, _, last = put_together(chat(client, stream=True, n=3, stream_options={"include_usage": True}))
    assert texts == dict.fromkeys(range(3), ANSWER)
    assert finishes == dict.fromkeys(range(3), "stop")
    assert last.choices == []
    assert last.usage.completion_tokens == 3 * chat(client).usage.completion_tokens
    assert chat(client, n=3).usage.completion_tokens == last.usage.completion_tokens
    assert put_together(chat(client, stream=True))[3].usage is None


def test_a_call_is_shown_beside_the_text_to_whom_wants_it_so(client):
    call = {"input": "6*7", "output": "42"}
    more = {"extra_body": {"tool_display": "separate"}}
    texts, _, tools, _ = put_together(chat(client, stream=True, **more))
    assert (texts, tools) == ({0: " OK.".strip()}, [("", call)])
    message = chat(client, **more).choices[0].message
    assert message.content == "OK."
    assert message.parts == [{"type": "tool", **call}, {"type": "text", "text": "OK."}]


def test_an_answer_that_comes_back_is_read_as_it_was_said(server, client):
    """In every form in which a client has it; oracle: the tokens that the engine said."""
    asked = []
    replicas = server.serving.current
    original = replicas.ask
    replicas.ask = lambda prompt, *rest: (asked.append(list(prompt)), original(prompt, *rest))[1]
    try:
        first = chat(client, extra_body={"tool_display": "separate"}).choices[0].message
        forms = [
            {"role": "assistant", "content": ANSWER},
            {"role": "assistant", "content": first.parts},
            first.model_dump(exclude_none=True),
        ]
        for form in forms:
            chat(client, [*QUESTION, form, {"role": "user", "content": "And?"}])
    finally:
        replicas.ask = original
    said = "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>OK.<|assistant_end|>"
    prompts = [TOKENIZER.decode(prompt) for prompt in asked]
    assert prompts[1:] == [f"{prompts[0]}{said}<|user_start|>And?<|user_end|><|assistant_start|>"] * 3
    assert all(prompt[: len(asked[0])] == asked[0] for prompt in asked)


def test_the_beginning_of_a_conversation_is_not_read_again(client):
    messages = [{"role": "user", "content": "A question that nobody has asked before. " * 6}]
    answer = chat(client, messages)
    assert answer.usage.prompt_tokens_details.cached_tokens < 20
    said = answer.choices[0].message
    again = chat(client, [*messages, said.model_dump(exclude_none=True), {"role": "user", "content": "And?"}])
    before = answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert before - SHARED_STEP - 1 <= again.usage.prompt_tokens_details.cached_tokens <= before


def test_characters_of_several_bytes_come_whole(client):
    chunks = client.completions.create(model="nanochat", prompt="x", temperature=0, stream=True)
    texts = [choice.text for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "é!"
    assert "\ufffd" not in "".join(texts)


def test_completions_take_texts_and_tokens_several_at_once(client):
    prompts = ["x", "ax"]
    answer = client.completions.create(model="nanochat", prompt=prompts, temperature=0, n=2)
    assert [choice.text for choice in answer.choices] == ["é!"] * 4
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    tokens = [[TOKENIZER.bos, *prompt.encode()] for prompt in prompts]
    assert client.completions.create(model="nanochat", prompt=tokens, temperature=0).choices[1].text == "é!"
    assert client.completions.create(model="nanochat", prompt=tokens[0], temperature=0).choices[0].text == "é!"
    streamed = {}
    for chunk in client.completions.create(model="nanochat", prompt=prompts, temperature=0, stream=True, max_tokens=9):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert streamed == {0: "é!", 1: "é!"}


def test_an_answer_ends_at_its_length_and_at_a_stop_text(client):
    def text(**more):
        (choice,) = client.completions.create(model="nanochat", prompt="a", temperature=0, **more).choices
        return choice.text, choice.finish_reason

    assert text() == ("bca" * 5 + "b", "length")  # OpenAI's default there is 16
    assert text(max_tokens=4) == ("bcab", "length")
    assert text(max_tokens=100, stop="abc") == ("bc", "stop")
    assert text(max_tokens=100, stop=["zz", "ca"]) == ("b", "stop")
    room = 512 - 2
    assert len(text(max_tokens=10_000)[0]) == room
    assert chat(client, max_completion_tokens=2).choices[0].finish_reason == "length"


def test_log_probabilities_belong_to_the_tokens_that_were_sent(client):
    entries = chat(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(entry.token for entry in entries).endswith("<|output_end|>OK.")
    assert all(-0.1 < entry.logprob <= 0 for entry in entries)
    chosen = [entry for entry in entries if entry.top_logprobs]
    assert all(len(entry.top_logprobs) == 2 for entry in chosen)
    assert all(entry.top_logprobs[0].token == entry.token for entry in chosen)
    streamed = []
    for chunk in chat(client, logprobs=True, top_logprobs=2, stream=True):
        for choice in chunk.choices:
            streamed += choice.logprobs.content if choice.logprobs else []
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    logs = (
        client.completions.create(model="nanochat", prompt="a", temperature=0, logprobs=1, max_tokens=3)
        .choices[0]
        .logprobs
    )
    assert logs.tokens == ["b", "c", "a"]
    assert logs.text_offset == [0, 1, 2]
    assert [list(top) for top in logs.top_logprobs] == [["b"], ["c"], ["a"]]
    assert chat(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert chat(client).choices[0].logprobs is None


def test_a_seed_repeats_an_answer_and_no_seed_does_not(client):
    def text(**more):
        answer = client.completions.create(model="nanochat", prompt="Q", temperature=2.0, max_tokens=20, **more)
        return answer.choices[0].text

    assert text(seed=7) == text(seed=7)
    assert text(seed=-7) == text(seed=-7)
    assert text(seed=7) != text(seed=8)
    assert text() != text()


def test_the_model_is_listed_under_its_names(server, client):
    (card,) = client.models.list().data
    assert (card.object, card.owned_by, card.context) == ("model", "nanochat", 512)
    assert card.parameters > 1000
    for name in (card.id, "nanochat"):
        assert client.models.retrieve(name).id == card.id
    for name in (card.id, "nanochat", ""):
        answer = client.chat.completions.create(model=name, messages=QUESTION, temperature=0)
        assert answer.model == card.id


REFUSED = [
    ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found", "model"),
    ({"temperature": 3}, openai.BadRequestError, "invalid_value", "temperature"),
    ({"temperature": "hot"}, openai.BadRequestError, "invalid_value", "temperature"),
    ({"top_p": 0}, openai.BadRequestError, "invalid_value", "top_p"),
    ({"n": 17}, openai.BadRequestError, "invalid_value", "n"),
    ({"n": True}, openai.BadRequestError, "invalid_value", "n"),
    ({"max_tokens": 0}, openai.BadRequestError, "invalid_value", "max_tokens"),
    ({"stop": [""]}, openai.BadRequestError, "invalid_value", "stop[0]"),
    ({"stop": ["x"] * 5}, openai.BadRequestError, "invalid_value", "stop"),
    ({"stop": "x" * 65}, openai.BadRequestError, "invalid_value", "stop"),
    ({"top_logprobs": 3}, openai.BadRequestError, "invalid_value", "top_logprobs"),
    ({"presence_penalty": 0.5}, openai.BadRequestError, "invalid_value", "presence_penalty"),
    ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "invalid_value", "response_format.type"),
    ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
    ({"messages": QUESTION * 513}, openai.BadRequestError, "invalid_value", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, openai.BadRequestError, "invalid_value", "messages[0]"),
    ({"messages": [{"role": "user", "content": 3}]}, openai.BadRequestError, "invalid_value", "messages[0].content"),
    ({"messages": [{"role": "system", "content": "x"}]}, openai.BadRequestError, "invalid_value", "messages[0].role"),
    ({"messages": [*QUESTION, {"role": "assistant", "content": "x"}]}, openai.BadRequestError, "invalid_value", "messages[1].role"),
    ({"messages": [{"role": "assistant", "content": "x"}, *QUESTION]}, openai.BadRequestError, "invalid_value", "messages[0].role"),
    ({"messages": [*QUESTION, {"role": "system", "content": "x"}, *QUESTION]}, openai.BadRequestError, "invalid_value", "messages[1].role"),
    ({"messages": [{"role": "user", "content": "x" * 600}]}, openai.BadRequestError, "context_length_exceeded", "messages"),
    ({"messages": [{"role": "user", "content": "x" * 508}]}, openai.BadRequestError, "context_length_exceeded", "messages"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "kind", "code", "param"), REFUSED, ids=[f"{p}-{i}" for i, (*_, p) in enumerate(REFUSED)]
)
def test_what_cannot_be_is_refused_by_name(client, more, kind, code, param, stream):
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**{"model": "nanochat", "messages": QUESTION, "stream": stream, **more})
    error = raised.value
    assert (error.code, error.param) == (code, param), error
    assert error.type == "invalid_request_error"
    assert error.body["message"]


def test_unknown_fields_and_neutral_values_are_no_error(client):
    more = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [], "user": "me", "store": True}
    more |= {"response_format": {"type": "text"}, "parallel_tool_calls": True, "extra_body": {"nonsense": 1}}
    assert chat(client, **more).choices[0].message.content == ANSWER
    nothing = dict.fromkeys(("n", "top_p", "stop", "seed", "max_tokens", "logprobs", "stream"))
    assert chat(client, extra_body=nothing).choices[0].message.content == ANSWER


def test_tokens_outside_the_vocabulary_are_refused(client):
    for prompt in ([-1], [TOKENIZER.vocab_size], [[3], []]):
        with pytest.raises(openai.BadRequestError) as raised:
            client.completions.create(model="nanochat", prompt=prompt)
        assert raised.value.param.startswith("prompt")


def test_a_conversation_beyond_the_context_forgets_its_oldest_turns_on_request(server, client):
    turns = [message for number in range(40) for message in
             ({"role": "user", "content": f"question {number:03}"}, {"role": "assistant", "content": "x" * 20})]  # fmt: skip
    messages = [{"role": "system", "content": "Be brief."}, *turns, *QUESTION]
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, messages)
    assert raised.value.code == "context_length_exceeded"
    answer = chat(client, messages, extra_body={"truncation": "auto"})
    assert answer.choices[0].message.content == ANSWER
    turn = len("question 000") + 20 + 4
    rest = len("Be brief.\n\n") + len(QUESTION[0]["content"]) + 4
    kept = (512 - 512 // 4 - rest) // turn  # a quarter of the context is for the answer
    assert answer.usage.forgotten_turns == 40 - kept
    assert answer.usage.prompt_tokens == rest + kept * turn


def test_a_system_message_opens_the_first_question_and_neighbours_are_one_message(server, client):
    one = chat(client, [{"role": "system", "content": "A"}, {"role": "user", "content": "B\n\nC"}])
    other = chat(client, [{"role": "developer", "content": [{"type": "text", "text": "A"}]},
                          {"role": "user", "content": "B"}, {"role": "user", "content": "C"}])  # fmt: skip
    assert one.usage.prompt_tokens == other.usage.prompt_tokens == len("A\n\nB\n\nC") + 4
