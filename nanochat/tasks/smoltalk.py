"""SmolTalk: general conversations to train on; there is no right answer, so it is never asked.

Not here: fetching (nanochat/stages/task_data.py). Standard library only.
"""

from typing import Any

from nanochat.tasks.from_file import FromFile, Origin, text_of


class SmolTalk(FromFile):
    """Rows of HuggingFaceTB/smol-smoltalk: {"messages": [{"role", "content"}]}, perhaps with a system message first."""

    name = "smoltalk"
    baseline = 0.0
    origins = {split: Origin("HuggingFaceTB/smol-smoltalk", None, split) for split in ("train", "test")}

    @classmethod
    def normalise(cls, row: dict[str, Any]) -> dict[str, Any]:
        messages = row.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError("messages: needs a list of objects with role and content")
        if messages and messages[0].get("role") == "system" and messages[0].get("content") in ("", None):
            messages = messages[1:]  # says nothing
        kept = [text_of(message, "role", "content") for message in messages]
        spoken = kept[1:] if kept and kept[0]["role"] == "system" else kept
        roles = [message["role"] for message in spoken]
        if len(roles) < 2 or roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(
                f"messages: user and assistant must take turns, the assistant last; found {', '.join(roles)}"
            )
        return {"messages": kept}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.row(index)
