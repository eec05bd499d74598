"""How often a letter occurs in a word: counted by hand while spelling, checked with the tool, said after `####`.

`s t r1 a w b e r2 r3 y`, then `'strawberry'.count('r')` and what it answers. Two ways to one number, so that a model
that counts wrong has something to notice. Questions come in many forms and several languages, with quotes and without,
in capitals and small letters; the answer is about letters whatever their case. Not here: the words
(nanochat/tasks/words.py), the tool (nanochat/tools/calculator.py), the short answers of `counting`.
Standard library only.
"""

import random
from typing import Any

from nanochat.tasks.counting import Counting, counted
from nanochat.tasks.task import dialogue

OUTPUT_END = "<|output_end|>"
ENGLISH_SHARE = 0.85
QUESTIONS = (
    "How many {letter} are in {word}?",
    "How many {letter} are there in {word}?",
    "How many {letter}s are in {word}?",
    "How many {letter}s are in the word {word}?",
    "How many {letter}'s are in {word}?",
    "How many {letter}'s are there in the word {word}?",
    "How many times does {letter} occur in {word}?",
    "How many times does {letter} appear in {word}?",
    "How many times does the letter {letter} appear in the word {word}?",
    "How many times is {letter} used in {word}?",
    "How many times do you see the letter {letter} in {word}?",
    "How often does {letter} occur in {word}?",
    "How often is the letter {letter} in {word}?",
    "How often does the letter {letter} show up in {word}?",
    "How often do I write {letter} when I spell {word}?",
    "How many of the letters in {word} are {letter}?",
    "What is the number of {letter} in {word}?",
    "What is the count of the letter {letter} in {word}?",
    "What number of times does {letter} come up in {word}?",
    "Count the {letter} in {word}",
    "Count the letter {letter} in {word}",
    "Count how many {letter} are in {word}",
    "Count every {letter} in the word {word}",
    "Please count the letter {letter} in {word}",
    "Please tell me how many {letter} are in {word}",
    "Tell me how often {letter} occurs in {word}",
    "Find the number of {letter} in {word}",
    "Can you count the letter {letter} in {word}?",
    "Can you tell me how many {letter} the word {word} has?",
    "Could you count how often {letter} appears in {word}?",
    "Do you know how many {letter} are in {word}?",
    "I need the number of {letter} in {word}",
    "I want to know how many times {letter} appears in {word}",
    "In the word {word}, how many {letter} are there?",
    "In {word}, how often does the letter {letter} appear?",
    "Look at the word {word}. How many {letter} does it have?",
    "The word is {word}. How many times does it contain {letter}?",
    "Does {word} contain the letter {letter}, and how many times?",
    "{word}: how many {letter}?",
    "number of {letter} in {word}",
)
OTHER_LANGUAGES = (
    "¿Cuántas {letter} hay en {word}?",
    "¿Cuántas veces aparece la letra {letter} en {word}?",
    "Cuenta la letra {letter} en la palabra {word}",
    "Wie viele {letter} sind in {word}?",
    "Wie oft kommt der Buchstabe {letter} in {word} vor?",
    "Zähle den Buchstaben {letter} im Wort {word}",
    "Combien de {letter} y a-t-il dans {word} ?",
    "Combien de fois la lettre {letter} apparaît-elle dans {word} ?",
    "Compte la lettre {letter} dans le mot {word}",
    "Quante {letter} ci sono in {word}?",
    "Quante volte compare la lettera {letter} in {word}?",
    "Quantas letras {letter} há em {word}?",
    "Quantas vezes aparece a letra {letter} em {word}?",
    "Hoeveel keer komt de letter {letter} voor in {word}?",
)
QUOTES = ("{}", "{}", "'{}'", '"{}"', "\u2018{}\u2019", "\u201c{}\u201d", "`{}`")
MANUAL = (
    "Let me spell {word} and count each {letter}: {counted}. By hand that makes {count}.",
    "I spell the word and count {letter} on the way: {counted}. So I count {count}.",
    "Letter by letter, with a number after every {letter}: {counted}. That gives {count}.",
)
CHECK = (" Let me check with Python: ", " Now the same with Python: ", " Checking with the tool: ")
RESULT = (
    'Python also says {count}: the letter {letter} occurs {times} in "{word}".\n\n#### {count}',
    'Both agree: "{word}" contains the letter {letter} {times}.\n\n#### {count}',
    'The tool confirms it: {letter} appears {times} in "{word}".\n\n#### {count}',
)


class LetterCounting(Counting):
    """`How many r are in strawberry?`; an answer is right if the last number in it is, after what a tool said."""

    name = "letter_counting"
    baseline = 0.49  # of always answering 1
    all_share = vowels_share = 0.0

    def __len__(self) -> int:
        return 200_000 if self.split == "train" else len(self.known)

    def __getitem__(self, index: int) -> dict[str, Any]:
        word, letter = self.problem(index)
        dice = random.Random(f"words of {self.name}/{self.split}/{index}")
        return dialogue(_asked(word, letter, dice), _answer(word, letter, dice))

    def correct(self, index: int, completion: str) -> bool:
        return super().correct(index, completion.rpartition(OUTPUT_END)[2])


def _asked(word: str, letter: str, dice: random.Random) -> str:
    """A question as somebody types it."""
    question = dice.choice(QUESTIONS if dice.random() < ENGLISH_SHARE else OTHER_LANGUAGES)
    shown_word = dice.choices((word, word.capitalize(), word.upper()), (6, 2, 1))[0]
    shown_letter = dice.choices((letter, letter.upper()), (3, 1))[0]
    around = [dice.choice(QUOTES) for _ in range(2)]
    text = question.format(word=around[0].format(shown_word), letter=around[1].format(shown_letter))
    if not text.endswith("?"):
        text += dice.choice((".", "", ""))
    elif dice.random() < 0.15:
        text = text.rstrip(" ?")  # in a hurry
    return text if dice.random() < 0.8 else text[0].lower() + text[1:]


def _answer(word: str, letter: str, dice: random.Random) -> list[dict[str, str]]:
    """The count by hand, the call with what the tool answers, and the result."""
    count = word.count(letter)
    times = {1: "once", 2: "twice"}.get(count, f"{count} times")
    said = {"word": word, "letter": letter, "count": count, "times": times, "counted": counted(word, letter)}
    return [
        {"type": "text", "text": dice.choice(MANUAL).format(**said) + dice.choice(CHECK)},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": str(count)},
        {"type": "text", "text": dice.choice(RESULT).format(**said)},
    ]
