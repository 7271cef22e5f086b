"""Limits, stop sequences and sampling of a long answer, and the text of a growing one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.serving.sampling import RowSampler, Sampling, draw
from illava.serving.text import Detokenizer, StopFinder

from .conftest import running, streamed_text, text_of

ASKED = "What is shown here?"


@pytest.fixture(scope="module")
def server(endless):
    with running(endless, max_tokens=40) as one:
        yield one


def test_the_limit_of_new_tokens(server):
    for options, tokens in (({"max_tokens": 3}, 3), ({"max_completion_tokens": 4}, 4), ({}, 40)):
        answer = server.ask(ASKED, **options)
        assert answer["usage"]["completion_tokens"] == tokens
        assert answer["choices"][0]["finish_reason"] == "length"
    assert server.ask(ASKED, max_tokens=7, max_completion_tokens=5)["usage"]["completion_tokens"] == 5


def test_stop_sequences_end_an_answer_before_them(server):
    whole = text_of(server.ask(ASKED, max_tokens=30))
    for begin, length in ((3, 1), (8, 4), (2, 9)):
        stop = whole[begin : begin + length]
        expected = whole[: whole.index(stop)]
        answer = server.ask(ASKED, max_tokens=30, stop=["not in it", stop])
        assert text_of(answer) == expected
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] < 30
        events = server.stream(ASKED, max_tokens=30, stop=stop)
        assert streamed_text(events) == expected
        assert events[-1]["choices"][0]["finish_reason"] == "stop"
    almost = whole[-3:] + "\x00"
    answer = server.ask(ASKED, max_tokens=30, stop=almost)
    assert text_of(answer) == whole
    assert answer["choices"][0]["finish_reason"] == "length"


def test_generation_that_ends_by_itself_ends_the_answer(server, endless, monkeypatch):
    monkeypatch.setattr(endless[0].generation_config, "max_time", 1e-9)
    answer = server.ask(ASKED, max_tokens=30)
    assert 1 <= answer["usage"]["completion_tokens"] < 30
    assert answer["choices"][0]["finish_reason"] == "length"
    assert streamed_text(server.stream(ASKED, max_tokens=30)) == text_of(answer)


def test_a_seed_gives_the_same_answer_again(server):
    drawn = {"temperature": 1.5, "max_tokens": 20}
    first, again, other = (text_of(server.ask(ASKED, seed=seed, **drawn)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert streamed_text(server.stream(ASKED, seed=7, **drawn)) == first
    greedy = text_of(server.ask(ASKED, max_tokens=20))
    assert text_of(server.ask(ASKED, max_tokens=20, temperature=0, seed=7)) == greedy
    assert text_of(server.ask(ASKED, max_tokens=20, temperature=1, top_p=1e-6)) == greedy
    assert first != greedy


@pytest.mark.parametrize("top_p", [1.0, 0.75, 0.5, 0.2])
def test_tokens_are_drawn_by_their_probabilities(top_p):
    logits = torch.tensor([0.0, 2.0, 1.0, -1.0, 0.5])
    temperature = 0.7
    weights = [torch.exp(value / temperature).item() for value in logits]
    ranked, left, kept = sorted(range(5), key=lambda i: -weights[i]), top_p * sum(weights), []
    while ranked and left > 0:
        kept.append(ranked.pop(0))
        left -= weights[kept[-1]]
    total = sum(weights[i] for i in kept)
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature, top_p)
    draws = [draw(logits, sampling, generator) for _ in range(4000)]
    assert set(draws) <= set(kept)
    for i in kept:
        expected = weights[i] / total
        deviation = (expected * (1 - expected) / 4000) ** 0.5
        assert abs(draws.count(i) / 4000 - expected) <= 5 * deviation


def test_tiny_temperatures_are_greedy():
    logits = torch.tensor([1.0, 3.0, -torch.inf, 2.999])
    for temperature in (1e-9, 1e-300, 5e-324):
        assert draw(logits, Sampling(temperature), torch.Generator()) == 1


def test_each_row_is_drawn_by_its_own_settings():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    chosen = [Sampling(1.0, seed=3), Sampling(), Sampling(2.0, seed=4)]
    batch, alone = RowSampler(chosen), [RowSampler([one]) for one in chosen]
    for _ in range(5):
        together = batch(torch.zeros(3, 1), logits.clone()).argmax(-1)
        apart = [
            one(torch.zeros(1, 1), row[None].clone()).argmax(-1)
            for one, row in zip(alone, logits, strict=True)
        ]
        assert together.tolist() == torch.cat(apart).tolist()
        assert together[1] == logits[1].argmax()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_pieces_are_whole_characters_and_make_up_the_text(endless, text):
    tokenizer = endless[1].tokenizer
    ids = tokenizer(text + "né 🐈‍⬛ 字")["input_ids"]
    growing = Detokenizer(tokenizer)
    pieces = [growing.add(token) for token in ids]
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + growing.rest() == whole


def test_an_incomplete_character_comes_at_the_end(endless):
    tokenizer = endless[1].tokenizer
    ids = tokenizer("a🐈")["input_ids"][:-1]
    growing = Detokenizer(tokenizer)
    assert "".join(growing.add(token) for token in ids) == "a"
    assert "a" + growing.rest() == tokenizer.decode(ids)


@pytest.mark.parametrize("stops", [("ab",), ("aab", "b"), ("abc", "bd"), ("c",), ()])
def test_stops_are_found_in_any_pieces(stops):
    for length in range(6):
        for text in map("".join, itertools.product("abc", repeat=length)):
            ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
            # What a reader who goes letter by letter sees: the first stop sequence to be complete.
            first = min(ends, default=None)
            expected = text
            if first is not None:
                expected = text[: min(first - len(s) for s in stops if text[:first].endswith(s))]
            finder = StopFinder(stops)
            shown = ""
            for letter in text:
                shown += finder.add(letter)
                assert expected.startswith(shown)
            assert shown + finder.rest() == expected
            assert finder.found == (first is not None)
