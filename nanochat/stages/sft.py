"""Supervised finetuning: the model learns to answer.

The loss is on what the assistant says, tool calls and the end of its turn included, and divided by the number of those
tokens in the whole step. Promises and the work are those of nanochat/stages/chat_training.py.
"""

from typing import TYPE_CHECKING

from nanochat.data.conversation_packing import ASSISTANT
from nanochat.stages.chat_training import train_on_conversations
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Sft


def run(stage: "Sft", ctx: StageContext) -> dict[str, float]:
    """Trains ctx["midtrain"] on the rows of sft_data; returns the final numbers."""
    return train_on_conversations(stage, ctx, "midtrain", "sft_data", min_label=ASSISTANT)
