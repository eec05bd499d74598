"""MMLU (arXiv:2009.03300): multiple choice over 57 subjects; trained on its auxiliary set, tested on `test`.

Not here: fetching (nanochat/stages/task_data.py). Standard library only.
"""

from typing import Any

from nanochat.tasks.from_file import MultipleChoice, Origin, choice_row


class Mmlu(MultipleChoice):
    """Rows of cais/mmlu: {"question", "choices", "answer"}."""

    name = "mmlu"
    baseline = 0.25
    origins = {
        "train": Origin("cais/mmlu", "auxiliary_train", "train", ("mc_aux_train.jsonl",)),
        "test": Origin("cais/mmlu", "all", "test"),
    }

    @classmethod
    def normalise(cls, row: dict[str, Any]) -> dict[str, Any]:
        if set(row) == {"train"} and isinstance(row["train"], dict):  # the auxiliary set wraps every row once more
            row = row["train"]
        return choice_row(row.get("question"), row.get("choices"), row.get("answer"))
