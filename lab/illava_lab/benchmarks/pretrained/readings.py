"""Reading features with a linear probe and with nearest neighbours: right or wrong, picture by picture."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from illava_lab.benchmarks.pretrained.measure import Measurement, Values
from illava_lab.benchmarks.pretrained.photographs import photographs
from illava_lab.benchmarks.pretrained.rows import Row, plain
from illava_lab.benchmarks.pretrained.settings import ALIKE_KEEP

NEIGHBOURS, TEMPERATURE = 10, 0.07
"""k of the nearest neighbours, and the temperature of their votes, as DINO's authors use them."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation of logistic regression, from which a held-out fifth of the train part chooses."""
Right = npt.NDArray[np.bool_]
CELLS, KNN, LINEAR = "boards", "knn", "linear"
SAME = "boards, as plain"
"""Whether a small photograph is given the name that plain features give it, right or wrong."""
PLAIN_MEAN, WEIGHTED = 0, 1
"""Which of the two pooled vectors of a picture."""


def nearest(known: Values, labels: Sequence[str], asked: Values) -> list[str]:
    """The label with the most votes of the nearest by cosine; votes are exp(cosine / temperature)."""
    classes = sorted(set(labels))
    index = np.array([classes.index(label) for label in labels])
    cosine = _unit(asked) @ _unit(known).T
    votes = np.zeros((len(asked), len(classes)))
    for row, similar in enumerate(cosine):
        best = np.argsort(-similar, kind="stable")[:NEIGHBOURS]
        np.add.at(votes[row], index[best], np.exp(similar[best] / TEMPERATURE))
    return [classes[i] for i in votes.argmax(1)]


class Probe:
    """Logistic regression on standardised features."""

    def __init__(self, known: Values, labels: Sequence[str], strength: float | None = None) -> None:
        """``strength``: None: the one that reads the last fifth best after learning the rest."""
        self.strength = self._choose(known, labels) if strength is None else strength
        self.fitted = _fitted(known, labels, self.strength)

    def __call__(self, asked: Values) -> list[str]:
        return [str(label) for label in self.fitted.predict(asked)]

    @staticmethod
    def _choose(known: Values, labels: Sequence[str]) -> float:
        cut = len(known) * 4 // 5
        scores = {
            strength: _fitted(known[:cut], labels[:cut], strength).score(known[cut:], labels[cut:])
            for strength in STRENGTHS
        }
        # max returns the first of equals: the strongest regularisation.
        return max(scores, key=scores.__getitem__)


def _fitted(known: Values, labels: Sequence[str], strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
    with warnings.catch_warnings():
        # Stopped after 200 iterations, a probe is as good as converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return made.fit(known, labels)


def _unit(values: Values) -> Values:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def read(measurement: Measurement) -> dict[str, Any]:
    """All answers: by row, reading and set, a string of 1 (right) and 0, in the order of the pictures."""
    rows = [plain(), *measurement.standard, *measurement.deep]
    answers: dict[str, dict[str, dict[str, str]]] = {row.label: {} for row in rows}
    strengths = {CELLS: _read_boards(measurement, rows, answers)}
    amounts = measurement.amounts
    pooled = [row for row in rows if row.block is None and (row.keep is None or row.keep in amounts.keeps)]
    for name in amounts.sets:
        strengths[name] = _read_photographs(measurement, name, pooled, answers)
    for name in amounts.alike_sets:
        alike = [row for row in pooled if row.keep in (None, ALIKE_KEEP)]
        _read_alike(measurement, name, alike, answers, strengths[name])
    return {"answers": answers, "strengths": strengths, "guess": _guess(measurement)}


def _read_boards(measurement: Measurement, rows: Sequence[Row], answers: dict[str, Any]) -> float:
    labels = {
        part: [photo.label for board in measurement.board_photographs(part) for photo in board]
        for part in ("train", "val")
    }
    known = measurement.features("teaching", plain())
    probe = Probe(known.reshape(-1, known.shape[-1]), labels["train"])
    first: list[str] = []
    for row in rows:
        asked = measurement.features("boards", row)
        said = probe(asked.reshape(-1, asked.shape[-1]))
        # The first row is plain.
        first = first or said
        answers[row.label][CELLS] = {"": _bits(said, labels["val"])}
        answers[row.label][SAME] = {"": _bits(said, first)}
    return probe.strength


def read_layers(measurement: Measurement, name: str, counts: dict[str, int]) -> dict[str, list[str]]:
    """How photographs are read from the features after each block: by reading, answers a block."""
    train, val = (
        [photo.label for photo in photographs(measurement.data, name, part, counts[part])]
        for part in ("train", "val")
    )
    known, asked = (measurement.features(f"layers-{name}-{part}", plain()) for part in ("train", "val"))
    answers: dict[str, list[str]] = {KNN: [], LINEAR: []}
    for block in range(known.shape[1]):
        of, to = known[:, block], asked[:, block]
        answers[KNN].append(_bits(nearest(of, train, to), val))
        answers[LINEAR].append(_bits(Probe(of, train)(to), val))
    return answers


def _guess(measurement: Measurement) -> float:
    """Share of small photographs that guessing by the data set of each alone names right."""
    taught, asked = (
        [photo.label for board in measurement.board_photographs(part) for photo in board]
        for part in ("train", "val")
    )
    classes = Counter(label.split(":")[0] for label in set(taught))
    return sum(1 / classes[label.split(":")[0]] for label in asked) / len(asked)


def _read_photographs(
    measurement: Measurement, name: str, rows: Sequence[Row], answers: dict[str, Any]
) -> float:
    train, val = _labels(measurement, name)
    known = measurement.features(f"references-{name}", plain())[:, PLAIN_MEAN]
    probe = Probe(known, train)
    for row in rows:
        asked = measurement.features(f"photographs-{name}", row)
        for view in (PLAIN_MEAN, WEIGHTED)[: 1 + row.counts]:
            said = {KNN: nearest(known, train, asked[:, view]), LINEAR: probe(asked[:, view])}
            for reading, labels in said.items():
                key = f"{reading}, weighted" if view == WEIGHTED else reading
                answers[row.label].setdefault(key, {})[name] = _bits(labels, val)
    return probe.strength


def _read_alike(
    measurement: Measurement, name: str, rows: Sequence[Row], answers: dict[str, Any], strength: float
) -> None:
    """With so few references: once plain ones, once merged as the picture in question was."""
    train, val = _labels(measurement, name)
    train = train[: measurement.amounts.alike]
    original = measurement.features(f"references-{name}", plain())[: len(train), PLAIN_MEAN]
    for row in rows:
        asked = measurement.features(f"photographs-{name}", row)[:, PLAIN_MEAN]
        known = {"few": original}
        if row.keep is not None:
            known["alike"] = measurement.features(f"alike-{name}", row)[:, PLAIN_MEAN]
        for kind, vectors in known.items():
            said = {KNN: nearest(vectors, train, asked), LINEAR: Probe(vectors, train, strength)(asked)}
            for reading, labels in said.items():
                answers[row.label].setdefault(f"{reading}, {kind}", {})[name] = _bits(labels, val)


def _labels(measurement: Measurement, name: str) -> tuple[list[str], list[str]]:
    amounts = measurement.amounts
    parts = (("train", amounts.references), ("val", amounts.photographs))
    train, val = (
        [photo.label for photo in photographs(measurement.data, name, part, count)] for part, count in parts
    )
    return train, val


def _bits(said: Sequence[str], labels: Sequence[str]) -> str:
    return "".join(str(int(a == b)) for a, b in zip(said, labels, strict=True))
