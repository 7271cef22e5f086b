"""Rows: what their shapes mean, and what is refused with which reason."""

from __future__ import annotations

import json

import pytest

from illava.batch.rows import BadRow, read_row

from .conftest import HEART, openai_row


def parsed(row, model="toy"):
    return read_row(7, json.dumps(row).encode(), model)


def shown(row):
    """(type, content) of all parts of a row's messages."""
    found = []
    for message in parsed(row).request.messages:
        for part in message.content:
            content = {"text": "text", "video": "video", "image_url": "image_url"}[part.type]
            value = getattr(part, content)
            found.append((part.type, value.url if part.type == "image_url" else value))
    return found


def test_a_simple_row():
    row = parsed(
        {"id": "a", "picture": "1.png", "question": HEART, "keep": "1/9", "max_tokens": 5, "seed": 2}
    )
    assert (row.number, row.name, row.openai) == (7, "a", False)
    assert (row.request.share, row.request.most_tokens, row.request.seed) == (1 / 9, 5, 2)
    assert row.request.model == "toy"


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"picture": "1.png"}, [("image_url", "1.png")]),
        ({"image": "1.png"}, [("image_url", "1.png")]),
        ({"pictures": ["1.png", "2.png"]}, [("image_url", "1.png"), ("image_url", "2.png")]),
        ({"images": ["1.png"]}, [("image_url", "1.png")]),
        ({"video": ["1.png", "2.png"]}, [("video", ["1.png", "2.png"])]),
        ({}, []),
    ],
)
def test_pictures_precede_the_question(fields, parts):
    assert shown({**fields, "question": HEART}) == [*parts, ("text", HEART)]


def test_messages_and_openai_rows_are_requests():
    messages = openai_row("o", HEART, "1.png")["body"]["messages"]
    expected = [("text", HEART), ("image_url", "1.png")]
    assert shown({"id": 3, "messages": messages}) == shown(openai_row("o", HEART, "1.png")) == expected
    row = parsed(openai_row("o", HEART, model="toy", max_completion_tokens=9, user="me"))
    assert (row.name, row.openai, row.request.most_tokens) == ("o", True, 9)


def test_fields_of_eval_and_metadata_are_ignored():
    row = {
        "question": HEART,
        "answers": ["green"],
        "answer": "green",
        "kind": "colour",
        "metadata": {"a": [1]},
    }
    assert parsed(row).name is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "a"}, "give one of question, messages and body"),
        ({"question": HEART, "messages": []}, "give one of question, messages and body"),
        ({"question": " "}, "question must be a string that is not empty"),
        ({"question": 3}, "question must be a string"),
        ({"question": HEART, "picture": 3}, "picture must be a path or a data URL"),
        ({"question": HEART, "picture": ["1.png"]}, "picture must be a path or a data URL"),
        ({"question": HEART, "pictures": "1.png"}, "pictures must be a list of paths"),
        ({"question": HEART, "pictures": []}, "pictures must be a list of paths"),
        ({"question": HEART, "video": ["1.png", ""]}, "video must be a list of paths"),
        ({"question": HEART, "picture": "1.png", "image": "2.png"}, "picture and image: give one of them"),
        ({"messages": [], "picture": "1.png"}, "picture: give one of them, beside a question"),
        ({"messages": []}, "messages: "),
        ({"question": HEART, "keeep": 0.1}, "keeep: there is no such field"),
        ({"question": HEART, "max_tokens": 0}, "max_tokens: "),
        ({"question": HEART, "temperature": 3}, "temperature: "),
        ({"question": HEART, "id": True}, "id must be a string or an integer"),
        ({"question": HEART, "id": "x" * 513}, "id must be a string or an integer of at most 512 characters"),
        ({"custom_id": 3, "body": {}}, "custom_id must be a string"),
        ({"body": {"messages": []}}, "custom_id must be a string"),
        ({**openai_row("o", HEART), "method": "GET"}, "method must be 'POST'"),
        ({**openai_row("o", HEART), "url": "/v1/embeddings"}, "url must be '/v1/chat/completions'"),
        ({**openai_row("o", HEART), "question": HEART}, "question: there is no such field"),
        (openai_row("o", HEART, model="gpt"), "body.model is 'gpt', but 'toy' answers; see --name"),
        (openai_row("o", HEART, stream=True), "are not streamed"),
        (openai_row("o", HEART, n=2), "n is not supported"),
        ({"custom_id": "o", "body": []}, "body must be a JSON object"),
        ([1], "the row must be a JSON object"),
    ],
)
def test_refusals(row, reason):
    with pytest.raises(BadRow) as error:
        parsed(row)
    assert reason in error.value.reason
    assert "\n" not in error.value.reason
    assert error.value.number == 7


def test_a_bad_row_is_named_as_far_as_it_can_be_read():
    with pytest.raises(BadRow) as error:
        parsed({"id": "a", "picture": 3, "question": HEART})
    assert error.value.to_dict() == {"row": 7, "id": "a", "error": "picture must be a path or a data URL"}
    for line in (
        b"{oops",
        b'{"id": "a", "question": "\\ud83d"}',
        b"\xff",
        b'{"id": "a", "question": "\xed\xa0\xbd"}',
    ):
        with pytest.raises(BadRow) as error:
            read_row(7, line, "toy")
        assert error.value.name is None


def test_a_byte_order_mark_is_no_fault():
    """Editors on Windows write one at the beginning of a file."""
    row = read_row(1, b'\xef\xbb\xbf{"id": "a", "question": "What?"}', "toy")
    assert row.name == "a"
