"""Which prompts are answered together, in which order, and the bounded number of those who wait."""

from __future__ import annotations

import itertools
import threading

import pytest

import illava
from illava.serving.batching import Waiting, alike, choose
from illava.serving.jobs import Job, Prompt
from illava.serving.places import Full, Places

A, B = illava.Illava.best(1 / 3), illava.Illava.best(1 / 9)
PICTURES, TEXT = (True, False), (False, False)


def job(length=100, method=A, form=PICTURES):
    prompt = Prompt([], {}, length, 0, form)
    return Job(prompt, method, 1, lambda event: None, Places(1).take())


@pytest.mark.parametrize(
    ("lengths", "same"),
    [((10, 74), True), ((10, 75), False), ((300, 400), True), ((299, 400), False), ((7,), True)],
)
def test_prompts_of_like_length(lengths, same):
    assert alike(lengths) is same


def test_the_oldest_goes_first_with_those_that_fit_it():
    jobs = [job(method=B), job(method=A), job(900), job(method=B, length=150), job(method=B, form=TEXT)]
    assert choose(jobs, 8) == [jobs[0], jobs[3]]
    assert choose(jobs[1:], 8) == [jobs[1]]
    assert choose([], 8) == []


def test_lengths_of_a_batch_fit_each_other_not_only_the_oldest():
    middle, short, long = job(100), job(40), job(160)
    assert choose([middle, short, long], 8) == [middle, short]


def test_all_jobs_are_answered_once_in_batches_of_one_kind():
    kinds = list(itertools.product((A, B), (PICTURES, TEXT), (20, 500)))
    jobs = [job(length, method, form) for method, form, length in kinds * 5]
    waiting = Waiting(max_batch=4, max_wait=0)
    for one in jobs:
        waiting.put(one)
    taken = [batch for _ in range(16) for batch in [waiting.take()]]
    assert [len(batch) for batch in taken] == [4] * 8 + [1] * 8
    assert sorted(map(id, itertools.chain(*taken))) == sorted(map(id, jobs))
    for batch in taken:
        assert len({(repr(one.method), one.prompt.form, one.prompt.length) for one in batch}) == 1


def test_a_full_batch_does_not_wait():
    waiting = Waiting(max_batch=2, max_wait=1e6)
    first, other, second = job(), job(method=B), job()
    for one in (first, other):
        waiting.put(one)
    taken = []
    thread = threading.Thread(target=lambda: taken.extend(waiting.take()), daemon=True)
    thread.start()
    thread.join(0.05)
    assert taken == []
    waiting.put(second)
    thread.join(60)
    assert taken == [first, second]
    assert waiting.close() == [other]


def test_cancelled_jobs_are_not_answered():
    waiting = Waiting(max_batch=8, max_wait=0)
    jobs = [job() for _ in range(3)]
    for one in jobs:
        waiting.put(one)
    jobs[1].cancel()
    assert waiting.take() == [jobs[0], jobs[2]]


def test_a_closed_queue_ends_who_waits_for_it():
    waiting = Waiting(max_batch=8, max_wait=0)
    taken = []
    thread = threading.Thread(target=lambda: taken.append(waiting.take()), daemon=True)
    thread.start()
    assert waiting.close() == []
    thread.join(60)
    assert taken == [[]]
    with pytest.raises(RuntimeError):
        waiting.put(job())


def test_places_are_bounded_and_given_back_once():
    places = Places(2)
    first, _ = places.take(), places.take()
    with pytest.raises(Full):
        places.take()
    first.leave()
    first.leave()
    assert places.taken == 1
    places.take()
    with pytest.raises(Full):
        places.take()
