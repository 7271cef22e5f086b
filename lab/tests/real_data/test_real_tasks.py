"""The tasks of photographs and documents, and how commands find them."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest
from illava_lab.real.data import STREAMS, sets, task_list, tasks

from illava import plugins
from illava.errors import InputError
from illava.evaluation.rows import size


@pytest.mark.parametrize("name", tasks.names())
def test_samples_are_fixed_and_complete(folder, name):
    task, again = tasks.load(name, folder=folder), tasks.load(name, folder=folder)
    assert task.fingerprint == again.fingerprint
    assert task.description
    assert 0 < task.guess <= 1
    assert size(task, 10**6) == len(task) <= 642
    for number in (2, 0, 1):
        one, other = task[number], again[number]
        assert one.pictures[0].tobytes() == other.pictures[0].tobytes()
        assert (one.question, one.answers, one.kind, one.small) == (
            other.question,
            other.answers,
            other.kind,
            other.small,
        )
        assert (one.task, one.number) == (name, number)
        assert one.cluster
        assert not task.choices or one.answers[0] in task.choices
        assert one.is_right(one.answers[0].upper())
    for number in (-1, len(task)):
        with pytest.raises(IndexError, match="samples are numbered from 0 to"):
            task[number]


@pytest.mark.parametrize("name", ["real-clothing", "real-cards", "real-daquar"])
def test_a_task_of_a_set_asks_its_test_questions_once(folder, name):
    spec = tasks.TASKS[name]
    for split in ("test", "val"):
        task = tasks.load(name, split, folder=folder)
        asked = sorted((task[i].cluster, task[i].question) for i in range(len(task)))
        listed = sets.lines(spec.set, split, folder)
        assert asked == sorted((f"{spec.set}-{line.picture.stem}", line.question) for line in listed)
    first, other = (tasks.load(name, seed=seed, folder=folder) for seed in (0, 1))
    assert [first[i].cluster for i in range(9)] != [other[i].cluster for i in range(9)]


def test_kinds_take_turns_in_the_first_wording(folder):
    task = tasks.load("real-receipts", folder=folder)
    kinds = tasks.TASKS["real-receipts"].kinds
    for number in range(2 * len(kinds)):
        sample = task[number]
        assert sample.kind == kinds[number % len(kinds)]
        if sample.kind == "receipt-total":
            assert sample.question == "What is the total?"
            assert sample.is_right(f"${sample.answers[0]}")


def test_parts_may_be_named_in_any_order(folder):
    task = tasks.load("real-cards", folder=folder)
    sample = next(s for s in (task[i] for i in range(len(task))) if s.answers[0].count(",") == 1)
    one, other = sample.answers[0].split(", ")
    assert sample.is_right(f"{other}, {one}")
    assert not sample.is_right(one)


def test_small_receipts_need_one_small_box(folder):
    task = tasks.load("real-sroie", folder=folder)
    assert task[0].small  # one of two boxes that hold the answer covers 20 of 8,100 pixels
    assert task[0].answers == ("1.00", "RM1.00")


def test_other_pictures_have_another_fingerprint(folder, tmp_path):
    for name in sets.TRAINING_SETS:
        (tmp_path / name).symlink_to(folder / name)
    before = tasks.load("real-clothing", folder=tmp_path).fingerprint
    (tmp_path / "clothing").unlink()
    (tmp_path / "clothing").mkdir()
    lines = (folder / "clothing" / "val.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "clothing" / "val.jsonl").write_text("".join(lines[1:]))
    sets._read.cache_clear()
    assert tasks.load("real-clothing", folder=tmp_path).fingerprint != before


def test_commands_use_them_only_by_name(monkeypatch, folder, tmp_path):
    from illava.cli.evaluate import make_tasks

    entries = [
        EntryPoint("drawn", "illava_lab.tasks", plugins.TASKS),
        EntryPoint("real", "illava_lab.real.data.tasks", plugins.TASKS),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [e for e in entries if e.group == group])
    plugins._registered.cache_clear()
    try:
        monkeypatch.setenv("ILLAVA_DATA", str(tmp_path / "nowhere"))
        assert set(tasks.names()) <= set(plugins.tasks())
        default = [task.name for task in make_tasks([], "test", 0, 5, False)]
        assert default == plugins.default_tasks()
        assert not set(default) & set(tasks.names())
        with pytest.raises(InputError, match=r"--tasks real-clothing: no picture sets in .* set ILLAVA_DATA"):
            make_tasks(["real-clothing"], "test", 0, 5, False)
        monkeypatch.setenv("ILLAVA_DATA", str(folder))
        assert [task.name for task in make_tasks(["real-clothing"], "val", 0, 5, False)] == ["real-clothing"]
    finally:
        plugins._registered.cache_clear()


def test_unknown_names_are_refused(folder):
    for arguments, message in (
        (("clothing",), "unknown task 'clothing'; the tasks are real-clothing"),
        (("real-clothing", "dev"), "unknown split 'dev'"),
        (("real-clothing", "test", -1), "seed must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            tasks.load(*arguments, folder=folder)


def test_every_task_has_a_set_or_stream_and_its_kinds(folder):
    kinds = {}
    for name in {spec.stream for spec in tasks.TASKS.values() if isinstance(spec, tasks.OfStream)}:
        draw = STREAMS[name].draw("test", folder)
        kinds[name] = {ask.kind for number in range(60) for ask in draw(np.random.default_rng(number)).asks}
    for spec in tasks.TASKS.values():
        if isinstance(spec, tasks.OfStream):
            assert set(spec.kinds) <= kinds[spec.stream]
        else:
            assert spec.set in (*sets.TRAINING_SETS, *sets.LOCAL_SETS)


def test_groups_are_those_of_existing_tasks(folder):
    """Comparisons at equal time list them separately; a renamed task must keep its group."""
    groups = {name: tasks.group_of(name) for name in tasks.TASKS}
    assert set(task_list.TEXT) | set(task_list.WHERE) <= set(groups)
    assert groups["real-receipts"] == groups["real-sroie"] == "text"
    assert groups["real-collage-where"] == "where"
    assert groups["real-clothing"] == ""
    assert all(tasks.load(name, folder=folder).group == groups[name] for name in ("real-words", "real-cards"))
