"""Deliveries to a service that fails: none of them holds up the others, and nobody waits for what will not come."""

import logging

import pytest

from flows.outbox import TRIES, Outbox, Refused, Unavailable


def test_one_delivery_that_fails_while_the_service_answers_does_not_hold_up_the_others(caplog):
    caplog.set_level(logging.WARNING)
    outbox, tries = Outbox("nobody", answers=lambda: True, pauses=(0.001,)), []

    def broken() -> None:
        tries.append(1)
        raise Unavailable("disk full")

    stuck, fine = outbox.put(broken), outbox.put(lambda: 7)
    assert fine.result(10) == 7
    with pytest.raises(Unavailable):
        stuck.result(10)
    assert len(tries) == TRIES
    assert outbox.close(10) == 0

    def refused() -> None:
        raise Refused("no")

    outbox = Outbox("nobody", answers=lambda: False)
    with pytest.raises(Refused):
        outbox.put(refused).result(10)
    assert (outbox.failures, outbox.dropped, outbox.close(10)) == (1, 1, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_delivery_is_printed_and_nobody_waits_for_the_rest():
    outbox = Outbox("nobody", answers=lambda: True)
    outbox.put(lambda: 1 / 0)
    assert outbox.close(1e6) == 1
    outbox._thread.join()


def test_the_same_is_said_once_and_the_end_says_what_waits(caplog):
    outbox = Outbox("nobody", answers=lambda: True)

    def refused() -> None:
        raise Refused("unsupported")

    for _ in range(6):
        outbox.put(refused)
    assert outbox.flush(10) == 0
    assert outbox.dropped == 6
    assert [record.getMessage() for record in caplog.records] == ["nobody does not take it: unsupported"]

    def away() -> None:
        raise Unavailable("connection refused")

    caplog.clear()
    for _ in range(3):
        outbox.put(away)
    assert outbox.close(0.1) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "nobody does not answer, work goes on without it: connection refused",
        "nobody did not answer: 3 deliveries were left out; their numbers wait, and the next run sends them",
    ]
