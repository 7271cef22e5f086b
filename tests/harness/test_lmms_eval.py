"""``lmms-eval --model illava``: the answers, scores and counts of illava itself."""

from __future__ import annotations

import pytest

import illava
from tests.harness.conftest import MODEL, command

KEEP = "1/9"
MERGED = illava.Illava.best(1 / 9)


@pytest.fixture(scope="module")
def run(questions, tmp_path_factory):
    """Run the command line with some arguments."""

    def run(model_args: str, *more: object, task: str = "drawn"):
        folder = tmp_path_factory.mktemp("lmms")
        words = ("--tasks", task, "--include_path", questions.folder / "lmms", "--device", "cpu", *more)
        model = ("--model", "illava", "--model_args", f"pretrained={MODEL},{model_args}")
        return command("lmms_eval", *model, *words, output=folder / "out", home=folder)

    return run


@pytest.mark.parametrize(("keep", "method"), [("1", illava.Illava(keep=1.0)), (KEEP, MERGED)])
def test_answers_and_scores_are_illavas_own(run, questions, keep, method):
    done = run(f"keep={keep}", "--batch_size", 1 if keep == "1" else 3)
    direct = questions.direct(method)
    assert done.answers == direct
    assert done.results["results"]["drawn"]["exact_match,none"] == pytest.approx(questions.accuracy(direct))
    before = [144 * len(sample.pictures) for sample in questions.samples]
    speed = done.results["throughput"]
    assert speed["avg_visual_tokens_before"] == pytest.approx(sum(before) / len(before))
    share = speed["avg_visual_tokens_after"] / speed["avg_visual_tokens_before"]
    assert share == pytest.approx(1 if keep == "1" else 1 / 9, abs=0.01)
    # The log names the model and the method with all its fields.
    assert f"{MODEL}, " in done.output
    assert f'"keep": {method.keep}' in done.output
    counts = [sample["token_counts"][0] for sample in done.samples]
    assert all(count["input_tokens"] > visual for count, visual in zip(counts, before, strict=True))


def test_multiple_choice_takes_the_likeliest(run, questions):
    done = run(f"keep={KEEP}", "--force_simple", "--batch_size", 4, task="choice")
    direct = questions.direct(MERGED)
    # What the model generates is the likeliest of the choices, where it is one of them.
    known = {
        number: answer == sample.answers[0]
        for number, (answer, sample) in enumerate(zip(direct, questions.samples, strict=True))
        if answer in (sample.answers[0], "green", "no", "1")
    }
    assert set(known.values()) == {True, False}
    assert {number: done.samples[number]["acc"] == 1.0 for number in known} == known
    # The harness writes all that it logs as text.
    greedy = [sample["filtered_resps"][0][1] == "True" for sample in done.samples]
    assert greedy == [known.get(number, False) for number in range(len(direct))]


@pytest.fixture
def model():
    """Make the chat model, or with ``simple`` the other one, in this process."""
    made = []

    def model(simple: bool = False, **arguments: object):
        from lmms_eval.models import get_model

        made.append(get_model("illava", force_simple=simple)(device="cpu", **arguments))
        return made[-1]

    yield model
    for each in made:
        each.clean()


def asked(model, docs, generation=None):
    """The answers of the chat model to conversations."""
    from lmms_eval.api.instance import Instance

    model.task_dict = {"task": {"test": docs}}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=("", lambda doc: doc, generation or {"max_new_tokens": 8}, number, "task", "test"),
            idx=0,
            metadata={"task": "task", "doc_id": number, "repeats": 1},
        )
        for number in range(len(docs))
    ]
    return [result.text for result in model.generate_until(requests)]


def turn(*parts):
    return {"role": "user", "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


def test_prompts_of_all_kinds_come_back_in_order(model, tmp_path):
    """Pictures, a video as frames and as a folder, and text alone, in batches of two."""
    from illava_lab.tasks import load

    shown, moving = load("attribute")[0], load("video")[0]
    for number, frame in enumerate(moving.video):
        frame.save(tmp_path / f"{number}.png")
    picture = [turn({"type": "image", "url": shown.pictures[0]}, text(shown.question))]
    frames = [turn({"type": "video", "url": list(moving.video)}, text(moving.question))]
    folder = [turn({"type": "video", "url": str(tmp_path)}, text(moving.question))]
    words = [turn(text("What colour is the sky?"))]
    both = model(pretrained=MODEL, keep="1/3", batch_size="2")
    alone = [asked(both, [doc])[0] for doc in (picture, frames, words)]
    assert asked(both, [picture, frames, words, folder, picture]) == [*alone, alone[1], alone[0]]
    assert alone[0] == "star"


def test_stops_and_limits_of_tasks(model):
    from illava_lab.tasks import load

    sample = load("words")[0]
    doc = [turn({"type": "image", "url": sample.pictures[0]}, text(sample.question))]
    plain = model(pretrained=MODEL, keep=1)
    (whole,) = asked(plain, [doc])
    assert len(whole) > 2
    at = whole.index(whole[2])
    assert asked(plain, [doc], {"until": [whole[2], "\n\n"], "image_aspect_ratio": "pad"}) == [whole[:at]]
    assert len(asked(plain, [doc], {"max_new_tokens": 1})[0]) < len(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keeps": 0.5}, "model_args keeps: give some of pretrained, keep, method"),
        ({"keep": "2"}, "keep=2: give a number above 0 and up to 1"),
        ({"method": "fast"}, "method fast: unknown method; give one of"),
        ({"keep": 0.5, "config": "{}"}, "give either config, or keep and method"),
        ({"batch_size": "auto"}, "batch_size=auto: give a whole number"),
        ({"pretrained": None}, "pretrained: name a model, as in pretrained=zoo/L"),
    ],
)
def test_wrong_arguments_are_named(model, arguments, message):
    with pytest.raises(illava.InputError, match=message):
        model(**{"pretrained": MODEL, **arguments})


def test_what_the_model_does_not_have_is_refused_in_one_line(model):
    chat = model(pretrained=MODEL)
    with pytest.raises(illava.InputError, match="task task, question 0: it has audio; illava takes texts"):
        asked(chat, [[turn({"type": "audio", "url": "a.wav"})]])
    with pytest.raises(NotImplementedError, match="add --force_simple"):
        chat.loglikelihood([])
    with pytest.raises(NotImplementedError, match="one round"):
        chat.generate_until_multi_round([])
    chat.clean()
    with pytest.raises(ValueError, match="make a new one"):
        asked(chat, [[turn(text("Why?"))]])
