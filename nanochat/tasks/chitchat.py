"""Small talk, and what is beyond the model: greetings, thanks, moods, jokes, questions and requests that it declines.

Without it every unknown sentence is answered with the model's identity. The patterns are in chitchat.txt. An answer is
right if it has the words of its topic and not the model's name. Standard library only.
"""

from nanochat.tasks.phrases import NAME
from nanochat.tasks.topics import TopicTask


class Chitchat(TopicTask):
    """`Good morning!` - `Hello! How can I help you?`"""

    name = "chitchat"
    baseline = 0.0
    file = "chitchat.txt"

    def correct(self, index: int, completion: str) -> bool:
        return super().correct(index, completion) and NAME not in completion.lower()
