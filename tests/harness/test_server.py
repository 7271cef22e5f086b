"""Both harnesses as clients of ``illava serve``, on loopback."""

from __future__ import annotations

import pytest

import illava
from illava.ask import load
from tests.harness.conftest import MODEL, command
from tests.serving.conftest import running

MERGED = illava.Illava.best(1 / 9)


@pytest.fixture(scope="module")
def server():
    """A server that keeps everything where a request does not choose."""
    with running(load(MODEL, "cpu"), keep=1.0, max_batch=4, max_wait_ms=20) as server:
        yield server


def test_lmms_eval(server, questions, tmp_path):
    done = command(
        *("lmms_eval", "--model", "openai", "--tasks", "drawn", "--include_path", questions.folder / "lmms"),
        "--model_args",
        f"base_url={server.url}/v1,api_key=unused,model_version=toy,num_concurrent=2,httpx_trust_env=False",
        output=tmp_path / "out",
        home=tmp_path,
    )
    direct = questions.direct(illava.Illava(keep=1.0))
    assert done.answers == direct
    assert done.results["results"]["drawn"]["exact_match,none"] == pytest.approx(questions.accuracy(direct))


def test_lm_eval_chooses_keep_for_each_request(server, questions, tmp_path):
    done = command(
        *("lm_eval", "--model", "local-chat-completions", "--apply_chat_template", "--tasks", "unmarked"),
        *("--model_args", f"base_url={server.url}/v1/chat/completions,model=toy,max_images=4"),
        *("--gen_kwargs", "keep=1/9", "--include_path", questions.folder / "lm"),
        output=tmp_path / "out",
        home=tmp_path,
    )
    direct = questions.direct(MERGED)
    assert done.answers == direct
    assert done.results["results"]["unmarked"]["exact_match,none"] == pytest.approx(
        questions.accuracy(direct)
    )
