"""What scores say: chance taken out, how sure one can be, pass@k, and which files are refused."""

from itertools import combinations
from math import comb, sqrt

import numpy as np
import pytest

from nanochat.evaluation import scores
from nanochat.evaluation.scores import TaskScore


def test_centering_puts_chance_at_zero_and_all_correct_at_one():
    assert TaskScore(5, 20, 0.25).centered == 0
    assert TaskScore(20, 20, 0.25).centered == 1
    assert TaskScore(0, 20, 0.5).centered == -1
    assert scores.mean_centered([TaskScore(20, 20, 0.25), TaskScore(1, 4, 0.25)]) == 0.5


def test_a_digest_of_texts_feels_moved_borders():
    assert scores.text_digest(["ab", "c"]) != scores.text_digest(["a", "bc"])
    assert scores.text_digest(["ab", "c"]) == scores.text_digest(iter(["ab", "c"]))


def test_scores_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not the artifact of an evaluation"):
        scores.read(tmp_path)
    (tmp_path / scores.FILE).write_text('{"metrics": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="has no digest, errors, tasks: evaluate again"):
        scores.read(tmp_path)


def test_the_interval_is_where_the_accuracy_is_z_deviations_from_the_truth():
    """Wilson's: at its ends the normal test of that truth is just not refused."""
    for correct, n in ((79, 100), (1, 7), (300, 20_000), (12, 12), (0, 5)):
        score = TaskScore(correct, n)
        for truth in score.interval:
            deviation = sqrt(truth * (1 - truth) / n)
            assert abs(score.accuracy - truth) == pytest.approx(scores.Z * deviation, abs=1e-12)
    assert TaskScore(79, 100).interval == pytest.approx((0.7002, 0.8583), abs=1e-4)
    assert TaskScore(0, 10).interval == pytest.approx((0, 0.2775), abs=1e-4)  # Z^2 / (n + Z^2)
    assert TaskScore(10, 10).interval == pytest.approx((0.7225, 1), abs=1e-4)


@pytest.mark.parametrize(("truth", "n"), [(0.03, 300), (0.25, 40), (0.5, 1000), (0.9, 160)])
def test_the_interval_holds_the_truth_19_times_of_20(truth, n):
    """Exactly: over all outcomes, each as often as the binomial says."""
    held = 0.0
    for correct in range(n + 1):
        low, high = TaskScore(correct, n).interval
        if low <= truth <= high:
            held += comb(n, correct) * truth**correct * (1 - truth) ** (n - correct)
    assert 0.93 < held < 0.97


def test_the_intervals_of_many_models_hold_their_truths_19_times_of_20():
    dice = np.random.default_rng(1)
    truths, sizes = dice.uniform(0.02, 0.98, 4000), dice.integers(30, 2000, 4000)
    held = 0
    for truth, n in zip(truths, sizes, strict=True):
        low, high = TaskScore(int(dice.binomial(n, truth)), int(n)).interval
        held += low <= truth <= high
    assert held / 4000 == pytest.approx(0.95, abs=0.012)


def test_several_answers_to_a_question_do_not_make_the_interval_narrower():
    score = TaskScore(120, 40, 0.25, samples=4)
    assert (score.accuracy, score.interval) == (0.75, TaskScore(30, 40).interval)
    assert score.as_dict()["samples"] == 4
    assert "samples" not in TaskScore(30, 40).as_dict()


def test_the_standard_error_is_the_spread_of_repeated_measurements():
    dice = np.random.default_rng(2)
    asked = [(0.4, 500, 0.25), (0.1, 200, 0.0), (0.7, 100, 0.5)]
    truth = [TaskScore(round(p * n), n, baseline) for p, n, baseline in asked]
    assert scores.standard_error(truth[:1]) == pytest.approx(sqrt(0.4 * 0.6 / 500) / 0.75)
    drawn = [
        scores.mean_centered(TaskScore(int(dice.binomial(n, p)), n, baseline) for p, n, baseline in asked)
        for _ in range(4000)
    ]
    assert scores.standard_error(truth) == pytest.approx(np.std(drawn), rel=0.05)


def test_pass_at_k_is_the_share_of_all_choices_of_k_answers_that_hold_a_right_one():
    assert scores.pass_at_k(4, 1, 2) == 0.5
    assert scores.pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert scores.pass_at_k(10, 3, 5) == pytest.approx(11 / 12)
    for correct in range(7):
        answers = [number < correct for number in range(6)]
        for k in range(1, 7):
            chosen = [any(some) for some in combinations(answers, k)]
            assert scores.pass_at_k(6, correct, k) == pytest.approx(sum(chosen) / len(chosen))


def test_pass_at_k_is_told_for_powers_of_two_and_for_all_answers():
    assert [scores.pass_counts(samples) for samples in (1, 2, 3, 8, 10)] == [[], [2], [2, 3], [2, 4, 8], [2, 4, 8, 10]]
