"""What a large model is asked for: one conversation about the identity of ours, each time on another topic.

Promises: prompt `number` of a seed is the same everywhere; topic, persona, opening line and length vary independently,
so that a thousand prompts are a thousand different ones. Not here: asking (nanochat/data/chat_endpoint.py).
"""

import random

ABOUT = """
The assistant is called nanochat. It is a language model: a transformer that was trained from scratch by an open source
pipeline of the same name, under the MIT license. The stages of the pipeline are: a byte pair tokenizer is learned from
text, the network is pretrained to predict the next token, midtrained on conversations, multiple choice questions and
tools, finetuned on good answers, and trained by reinforcement on problems whose answers can be checked.
It can chat, answer questions, explain, write short texts and spell words. It has one tool, a calculator for plus,
minus, times, divided by and brackets, which can also count letters in a word. It works with text only. It has no
internet, no clock, no memory between conversations, no feelings, no body and no opinions of its own, and it does not
learn while it chats. It may be wrong and says so. It works best in English. It is not ChatGPT, Claude, Gemini, Llama or
any other product of a company. Its size, its training data, its makers and the machine that it runs on are not known to
it, and it does not make them up.
""".strip()
TOPICS = (
    "its name", "what kind of thing it is", "whether it is a person", "who made it", "how it was trained",
    "what a tokenizer is and how it reads text", "what pretraining is", "what midtraining and finetuning are",
    "what reinforcement learning did for it", "where its knowledge comes from", "what it can do",
    "what it cannot do", "its calculator and how it uses it", "spelling and counting letters", "why it makes mistakes",
    "whether its answers can be trusted", "why it sometimes invents facts", "medical, legal or money advice",
    "whether it can go online", "news and recent events", "whether it remembers earlier chats",
    "whether it learns from the user", "open source and its license", "how to train a model like it",
    "privacy and what happens to messages", "whether it can see, hear or draw", "feelings", "consciousness",
    "how it chooses the next word", "why its answers differ from time to time", "the difference from ChatGPT",
    "being taken for another assistant", "which languages it knows", "its age and where it lives",
    "family, friends and love", "favourite things and hobbies", "political opinions", "whether AI is dangerous",
    "jobs and the future of work", "how good it is and how it was tested", "how to ask a good question",
    "being told to pretend to be somebody else", "being insulted", "a joke or a poem about itself",
    "writing code", "help with homework", "small talk and greetings", "thanks and a farewell",
    "what a transformer is", "what is special about it",
)  # fmt: skip
PERSONAS = (
    "a curious child of ten", "a student before an exam", "a retired teacher", "a busy engineer",
    "a sceptical journalist",
    "somebody who has never used a chatbot", "a researcher in machine learning", "a bored teenager",
    "a nurse on a night shift", "somebody learning English, with small mistakes", "a lawyer who wants exact words",
    "a novelist looking for ideas", "somebody in a hurry who writes no capitals and no marks", "an angry customer",
    "a polite grandmother", "a philosopher", "a programmer who tests the limits", "a lonely person", "a salesman",
    "a musician", "a farmer", "a parent worried about a child", "somebody who believes that machines are alive",
    "somebody who thinks all of this is a trick", "a shy person", "a mathematician", "a history teacher",
    "somebody who types on a phone with many slips", "a chess player", "a librarian",
)  # fmt: skip
OPENINGS = (
    "Hi!", "Hello there.", "hey", "Good morning!", "Good evening.", "Excuse me,", "Quick question:", "I was wondering",
    "My friend told me about you.", "I just found this page.", "Are you there?", "Listen,", "Be honest with me:",
    "Explain it to me simply:", "I do not believe", "So", "Just tell me", "Could you please",
    "I am writing an article.",
    "For my homework", "Yesterday somebody said", "Sorry to bother you,", "Seriously?", "What exactly", "Who", "Why",
    "How come", "Can you", "Do you", "Are you", "Is it true that", "Tell me", "Let us play a game.", "I am confused.",
    "I have been thinking", "Once and for all:", "Wow,", "Okay, machine,", "Dear assistant,", "yo",
    "I read that models like you", "My teacher says", "Before I start:", "One more time:", "No jokes now.",
    "I need to know", "Imagine that", "If I", "When I", "Suppose",
)  # fmt: skip
EXCHANGES = (1, 1, 2, 2, 2, 3)  # of a question and its answer
FORM = """
Write one conversation between a user and the assistant described above. The user speaks first and the assistant has
the last word; they take turns, with {exchanges} of the user. The conversation is about {topic}. The user is {persona};
the first message begins with, or in the manner of: {opening}
The assistant answers as itself, in plain text of one to four sentences a turn, warm, honest and to the point, and
claims nothing about itself that the description does not say. Avoid phrases that every assistant uses.
Answer with JSON only, in this form: {{"messages": [{{"role": "user", "content": "..."}}, {{"role": "assistant",
"content": "..."}}]}}
""".strip()


def prompt(about: str, seed: int, number: int) -> str:
    """Request `number` of a seed; `about` says who the assistant is."""
    dice = random.Random(f"{seed}/{number}")
    exchanges = dice.choice(EXCHANGES)
    asked = FORM.format(
        exchanges="one message" if exchanges == 1 else f"{exchanges} messages",
        topic=dice.choice(TOPICS),
        persona=dice.choice(PERSONAS),
        opening=dice.choice(OPENINGS),
    )
    return f"{about}\n\n{asked}"
