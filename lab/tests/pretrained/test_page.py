"""docs/pretrained.md, its table and its sentences follow from the result files."""

import copy
import csv
import io
import json
import re
import statistics

import pytest
from illava_lab.benchmarks.pretrained import command, page
from illava_lab.benchmarks.pretrained.figures import Figures, to_csv
from illava_lab.benchmarks.pretrained.rows import AFTER, BEFORE, INSIDE, deep, standard
from illava_lab.benchmarks.pretrained.settings import AMOUNTS, DEEP_KEEPS, KEEPS

from illava.io.pictures import InputError


@pytest.fixture(scope="module")
def found():
    return page.read()


@pytest.fixture(scope="module")
def rows(found):
    return list(csv.DictReader(io.StringIO(to_csv(found))))


def changed(found, change):
    """The figures after ``change`` was called with a copy of each result file."""
    made = []
    for figures in found:
        results = copy.deepcopy(figures.found)
        change(results)
        made.append(Figures(results))
    return made


def test_everything_is_up_to_date(found):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(found)
    assert (page.FOLDER / page.TABLE).read_text(encoding="utf-8") == to_csv(found)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page.page(found)):
        assert (page.PAGE.parent / picture).is_file()


def test_all_that_was_planned_was_measured(found):
    for figures in found:
        amounts = AMOUNTS[figures.side]
        assert figures.found["settings"]["amounts"] == amounts.to_dict()
        planned = [*standard(), *deep(amounts.blocks, 12)]
        assert list(figures.found["rows"]) == [row.label for row in planned]
        for row in planned:
            assert len(figures.found["rows"][row.label]["seconds"]) == amounts.rounds
            assert len(figures.found["answers"][row.label]["boards"][""]) == 36 * amounts.boards
            if row.block is None and row.keep in amounts.keeps:
                knn = figures.found["answers"][row.label]["knn"]
                assert {name: len(bits) for name, bits in knn.items()} == dict.fromkeys(
                    amounts.sets, amounts.photographs
                )


def test_the_table_is_made_of_the_answers(found, rows):
    """Accuracies, points and times by other means: counting."""
    for figures in found:
        mine = [row for row in rows if row["pixels"] == str(figures.side)]
        answers = figures.found["answers"]
        assert len(mine) == sum(len(readings) for readings in answers.values())
        for row in mine:
            shares = [
                100 * bits.count("1") / len(bits) for bits in answers[row["row"]][row["reading"]].values()
            ]
            accuracy = statistics.mean(shares)
            assert float(row["accuracy"]) == pytest.approx(accuracy, abs=0.006)
            assert float(row["accuracy_low"]) <= accuracy + 0.006
            assert float(row["accuracy_high"]) >= accuracy - 0.006
            base = {"weighted": "", "alike": ", few", "few": ", few"}
            reading = row["reading"]
            for kind, other in base.items():
                reading = reading.replace(f", {kind}", other) if f", {kind}" in row["reading"] else reading
            plain = [100 * bits.count("1") / len(bits) for bits in answers["plain"][reading].values()]
            assert float(row["points"]) == pytest.approx(accuracy - statistics.mean(plain), abs=0.006)
            if row["row"] != "plain":
                seconds = figures.found["rows"][row["row"]]["seconds"]
                ratio = statistics.median(own / plain for own, plain in seconds)
                assert float(row["time"]) == pytest.approx(ratio, abs=0.0006)


def tables(text):
    """The cells of all rows of all tables, by their first cell; of equal ones the first."""
    cells = {}
    for line in text.splitlines():
        if line.startswith("| "):
            first, *rest = line.strip("| ").split(" | ")
            cells.setdefault(first, rest)
    return cells


def test_the_best_of_each_kind_comes_first(found, rows):
    shown = tables(page.page(found))
    for figures in found:
        for keep in KEEPS:
            cells = shown[f"{figures.side} px, {keep}"]
            best = {}
            for group, cell in zip((INSIDE, AFTER, BEFORE), cells, strict=True):
                accuracies = [
                    float(row["accuracy"])
                    for row in rows
                    if (row["pixels"], row["keep"], row["where"], row["block"], row["reading"])
                    == (str(figures.side), keep, group, "", "boards")
                ]
                best[cell] = max(accuracies)
                name, accuracy = re.fullmatch(r"\**(.+?) ([\d.]+)\** \([\d.]+\)", cell).groups()
                assert float(accuracy) == pytest.approx(max(accuracies), abs=0.06)
                label = figures.at(name, keep)
                assert figures.accuracy(label).value == pytest.approx(max(accuracies), abs=0.006)
            (bold,) = [cell for cell in cells if cell.startswith("**")]
            assert best[bold] == max(best.values())


def test_the_sentences_follow_the_answers(found):
    """With all answers of the published pattern right and all of the preset wrong."""

    def swap(results):
        for label, readings in results["answers"].items():
            name = results["rows"].get(label, {"name": "plain"})["name"]
            if name in ("illava", "attention, fold, log"):
                bits = readings["boards"][""]
                readings["boards"][""] = ("1" if name == "illava" else "0") * len(bits)

    others = len(standard()) // len(KEEPS) - 1
    preset, published, _ = page.verdicts(changed(found, swap))
    assert f"0.0 % at 448 px, where {others} of {others} other rows are significantly better" in preset
    assert f"100.0 % at 448 px, where 0 of {others} other rows are significantly better" in published
    text = page.page(changed(found, swap))
    assert tables(text)["448 px, 1/9"][0].startswith("**illava 100.0**")
    assert text != page.page(found)


def test_boards_are_drawn_as_wholes():
    """Two boards, one all right and one all wrong: resamples are 0, 50 or 100 %."""
    bits = "1" * 36 + "0" * 36
    results = {
        "settings": {"side": 84, "seed": 0},
        "rows": {},
        "answers": {"plain": {"boards": {"": bits}, "knn": {"clothing": bits}}},
    }
    figures = Figures(results)
    boards, photographs = (figures.accuracy("plain", reading) for reading in ("boards", "knn"))
    assert (boards.low, boards.value, boards.high) == (0.0, 50.0, 100.0)
    assert 35 < photographs.low < 50 < photographs.high < 65


def test_depths_and_budgets_of_the_page(found):
    shown = tables(page.page(found))
    for keep in DEEP_KEEPS:
        assert len(shown[f"attention, fold, log, {keep}"]) == len(AMOUNTS[found[-1].side].blocks)
    with pytest.raises(KeyError, match="illava 1/7 was not measured at 224 px"):
        found[0].at("illava", "1/7")


def test_a_missing_or_foreign_file_is_named(monkeypatch, tmp_path, found):
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"224.json is missing"):
        command.main(["page"])

    for number, figures in enumerate(found):
        results = copy.deepcopy(figures.found)
        results["settings"]["weights"] += str(number)
        (tmp_path / f"{figures.side}.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="different weights"):
        page.read()
