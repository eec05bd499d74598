"""Sums of more than two whole numbers: decimals, brackets, several terms, percent, halves, powers, numbers in words.

Every training answer calls the calculator: what is to be learned is how it is asked, and a small model has no other
way. That it should be asked for two numbers as well is left to reinforcement learning (arithmetic.py). Not here: how a
sum is asked for (sums.py), stories (word_problems.py). Standard library only.
"""

import random

from nanochat.tasks import sums
from nanochat.tasks.arithmetic import Arithmetic


class Calculations(Arithmetic):
    """`(2 + 3) * 4`, `what's 15% of 200`; an answer is right if the last number in it is."""

    name = "calculations"
    baseline = 0.0
    test_size = 500
    tool_share = 1.0

    def drawn_sum(self, dice: random.Random) -> sums.Sum:
        """A sum of any other kind."""
        return sums.other(dice)
