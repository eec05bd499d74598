"""MLflow's loader contract: whatever shape the questions come in, one answer each; nothing foreign is imported."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.pyfunc import ChatModel, _load_pyfunc
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from tests.paths import ROOT

TOKENIZER = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def loaded(tmp_path: Path) -> ChatModel:
    """Answers `ab` and stops."""
    model = GPT(GPTConfig.classic(1, TOKENIZER.vocab_size, 64, width=272, head_dim=16))
    model.init_weights(0)
    said = [TOKENIZER.special("<|assistant_start|>"), *b"ab", TOKENIZER.special("<|assistant_end|>")]
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(TOKENIZER.vocab_size, 272))
        for token, following in itertools.pairwise(said):
            model.lm_head.weight[following, token] = 5.0
    save_model(model, tmp_path, stage="rl")
    TOKENIZER.save(tmp_path / "tokenizer.json")
    return _load_pyfunc(str(tmp_path))


class Frame:
    """What is used of a data frame."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ("Hi", 1),
        (["Hi", "Ho"], 2),
        ([MESSAGES, MESSAGES], 2),
        ([{"prompt": "Hi"}, {"messages": MESSAGES}], 2),
        ({"prompt": "Hi"}, 1),
        ({"prompt": ["Hi", "Ho", "Hu"]}, 3),
        ({"messages": MESSAGES}, 1),
        ({"messages": [MESSAGES, MESSAGES]}, 2),
        (Frame(prompt=["Hi", "Ho"]), 2),
        (Frame(messages=[MESSAGES], prompt=[None]), 1),
        ([], 0),
    ],
)
def test_every_question_gets_an_answer(loaded: ChatModel, asked: Any, count: int) -> None:
    assert loaded.predict(asked) == ["ab"] * count


def test_a_data_frame_of_pandas_is_taken(loaded: ChatModel) -> None:
    pandas = pytest.importorskip("pandas")
    assert loaded.predict(pandas.DataFrame({"prompt": ["Hi", "Ho"]})) == ["ab", "ab"]
    assert loaded.predict(pandas.DataFrame({"messages": [MESSAGES]})) == ["ab"]


def test_parameters_are_passed_on(loaded: ChatModel) -> None:
    assert loaded.predict("Hi", {"max_new_tokens": 1, "temperature": 0.5, "top_k": 1, "seed": 3}) == ["a"]
    with pytest.raises(ValueError, match="unknown parameter 'top_p': choose among max_new_tokens"):
        loaded.predict("Hi", {"top_p": 0.9})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([3], "a question of type int"),
        ([[]], "a question of type list"),
        ({"text": "Hi"}, "needs one of messages or prompt"),
    ],
)
def test_what_is_no_question_is_refused(loaded: ChatModel, asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded.predict(asked)


def test_neither_mlflow_nor_pandas_is_imported() -> None:
    code = "import sys, nanochat.pyfunc; assert not {'mlflow', 'pandas', 'tiktoken'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_the_name_under_which_older_versions_were_registered_still_loads() -> None:
    import nanochat.pyfunc

    assert nanochat.pyfunc._load_pyfunc is _load_pyfunc
