"""Small talk: greetings, thanks, how are you, goodbye, praise, and questions that no model can know the answer to.

Without it every unknown sentence is answered with the model's identity. A phrase is put together from two parts, and a
share of the pairs is held out. An answer is right if it has the words of its kind and none of the identity's.
Standard library only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.tasks.identity import NAME, sentence
from nanochat.tasks.task import Split, Task, dialogue, in_random_order, in_split

TEST_SHARE = 0.3


@dataclass(frozen=True)
class Talk:
    """One kind of small talk: each beginning with each ending gets one answer, which must have the word `needs`."""

    answer: str
    needs: str
    beginnings: tuple[str, ...]
    endings: tuple[str, ...]


PLACES = (" there", " friend", " again", " my friend", " everyone", " dear assistant")
MARKS = ("", "!", ".")
ENDINGS = tuple(place + mark for place in ("", *PLACES) for mark in MARKS)
TALKS = (
    Talk(
        "Hello! How can I help you?",
        "hello",
        (
            "Hello",
            "Hi",
            "Hey",
            "Good morning",
            "Good evening",
            "Good afternoon",
            "Greetings",
            "Good day",
            "hello",
            "hi",
            "hey",
        ),
        ENDINGS,
    ),
    Talk(
        "You are welcome!",
        "welcome",
        (
            "Thanks",
            "Thank you",
            "Thank you very much",
            "Many thanks",
            "Thanks a lot",
            "Great, thanks",
            "Perfect, thank you",
        ),
        (*ENDINGS, " for your help", " for the answer.", " so much!", ", that helps."),
    ),
    Talk(
        "I am doing well, thank you!",
        "well",
        (
            "How are you",
            "How are you doing",
            "How do you feel",
            "How is it going",
            "Hi, how are you",
            "Hello, how are you",
        ),
        ("?", " today?", " now?", " this morning?", " tonight?", ", my friend?", " these days?", ""),
    ),
    Talk(
        "Goodbye!",
        "goodbye",
        (
            "Goodbye",
            "Bye",
            "Bye bye",
            "See you",
            "See you later",
            "Good night",
            "Until tomorrow",
            "I have to go, bye",
            "Farewell",
        ),
        ENDINGS,
    ),
    Talk(
        "I am glad to hear that!",
        "glad",
        ("That is", "This is", "Your answer is", "It is", "You are"),
        (" great!", " very good.", " wonderful!", " really nice.", " perfect!", " helpful.", " excellent!", " good."),
    ),
    Talk(  # questions about the user and the world of today
        "Sorry, I do not know that.",
        "sorry",
        ("tell me", "do you know", "can you tell me", "please tell me", "I want to know", "what is", "may I ask"),
        (
            " my name",
            " my age",
            " the weather today",
            " the weather of tomorrow",
            " the time",
            " the date of today",
            " the latest news",
            " the price of gold",
            " my favorite color",
            " the winner of the game",
            " the temperature outside",
            " my telephone number",
            " my address",
            " the name of my dog",
            " the traffic today",
            " the name of my sister",
        ),
    ),
)
UNKNOWABLE = TALKS[-1]


class Chitchat(Task):
    """`Good morning!` - `Hello! How can I help you?`"""

    name = "chitchat"
    baseline = 0.0

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        known = dict(_phrases(split))
        self.phrases = [(asked, known[asked]) for asked in in_random_order(known)]

    def __len__(self) -> int:
        return len(self.phrases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        phrase, talk = self.phrases[index]
        return dialogue(phrase, talk.answer)

    def correct(self, index: int, completion: str) -> bool:
        said = completion.lower()
        return self.phrases[index][1].needs in said and NAME not in said


def _phrases(split: Split) -> Iterator[tuple[str, Talk]]:
    for talk in TALKS:
        for beginning in talk.beginnings:
            for ending in talk.endings:
                phrase = sentence("", beginning + ending) if talk is UNKNOWABLE else beginning + ending
                if in_split(_plain(phrase), split, TEST_SHARE):
                    yield phrase, talk


def _plain(phrase: str) -> str:
    """What two spellings of the same phrase have in common: they belong to the same split."""
    return "".join(letter for letter in phrase.lower() if letter.isalpha())
