"""Who the model is: its name, its kind, its maker, its purpose, what it can do, how it works, and what it is not.

Questions come in many words from the patterns of identity.txt; edit it to give a small model another identity. An
answer counts as right if it names the fact that was asked for. Standard library only.
"""

from nanochat.tasks.phrases import NAME
from nanochat.tasks.topics import TopicTask

__all__ = ["NAME", "Identity"]


class Identity(TopicTask):
    """`Who are you?` - `I am nanochat, a small language model.`"""

    name = "identity"
    baseline = 0.0
    file = "identity.txt"
