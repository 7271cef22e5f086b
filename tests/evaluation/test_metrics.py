"""Figures against closed forms, and the bootstrap against loops over the same resamples."""

from __future__ import annotations

import numpy as np
import pytest

from illava.evaluation.metrics import (
    Estimate,
    estimate,
    mean_over_tasks,
    resample,
    retained,
    retained_above_blank,
)


def test_values_by_hand():
    drawn = resample(["a", "a", "b", "c"], draws=50)
    row, plain, blank = (drawn.mean(v) for v in ([1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]))
    assert row[0] == 0.5
    assert retained(row, plain)[0] == pytest.approx(100 * 2 / 3)
    assert retained_above_blank(row, plain, blank)[0] == pytest.approx(50)
    other = drawn.mean([1, 1, 1, 1])
    assert mean_over_tasks([row, other])[0] == pytest.approx(0.75)


def test_against_loops():
    """The same resamples, written out cluster by cluster and sample by sample."""
    rng = np.random.default_rng(3)
    clusters = [str(c) for c in rng.integers(0, 12, 60)]
    plain, blank, row = (rng.random(60) < share for share in (0.9, 0.2, 0.7))
    drawn = resample(clusters, seed=5, name="task", draws=200)
    got = retained_above_blank(*(drawn.mean(list(v)) for v in (row, plain, blank)))
    names = sorted(set(clusters))
    assert drawn.weights.shape == (201, len(names))
    assert (drawn.weights[0] == 1).all()
    expected = []
    for weights in drawn.weights:
        assert weights.sum() == len(names)
        members = []
        for name, times in zip(names, weights, strict=True):
            members += [i for i, c in enumerate(clusters) if c == name] * int(times)
        shares = [sum(bool(v[i]) for i in members) / len(members) for v in (row, plain, blank)]
        expected.append(100 * (shares[0] - shares[2]) / (shares[1] - shares[2]))
    np.testing.assert_allclose(got, expected)
    low, high = np.quantile(expected[1:], [0.025, 0.975])
    found = estimate(got)
    assert (found.value, found.low, found.high) == pytest.approx((expected[0], low, high))


def test_seeded_and_independent_of_other_tasks():
    clusters = [str(n) for n in range(30)]
    one, same = resample(clusters, 1, "a"), resample(clusters, 1, "a")
    assert (one.weights == same.weights).all()
    for other in (resample(clusters, 2, "a"), resample(clusters, 1, "b")):
        assert (one.weights != other.weights).any()
    assert one.weights.shape == (2001, 30)


def test_paired_interval_is_narrower():
    """A row that agrees with plain everywhere retains 100 % in every resample, whatever the accuracy."""
    drawn = resample([str(n) for n in range(40)])
    plain = drawn.mean([n % 4 > 0 for n in range(40)])
    assert estimate(retained(plain, plain)) == Estimate(100, 100, 100)
    accuracy = estimate(plain)
    assert accuracy.low < 0.75 < accuracy.high


def test_clustered_interval_is_wider():
    """Ten questions about one picture that stand and fall together are one observation."""
    right = [n // 10 % 2 for n in range(400)]
    wide = estimate(resample([str(n // 10) for n in range(400)]).mean(right))
    narrow = estimate(resample([str(n) for n in range(400)]).mean(right))
    assert wide.high - wide.low == pytest.approx((narrow.high - narrow.low) * 10**0.5, rel=0.15)
    # Normal approximation: 2 * 1.96 * sqrt(p (1 - p) / clusters).
    assert wide.high - wide.low == pytest.approx(3.92 * (0.25 / 40) ** 0.5, rel=0.1)


def test_coverage():
    """Of 300 made-up runs, about 95 % have the true ratio within their interval."""
    rng = np.random.default_rng(0)
    hits = 0
    for number in range(300):
        clusters, plain, row = [], [], []
        for picture in range(60):
            # Questions about one picture share its difficulty.
            hard = rng.random() < 0.3
            for _ in range(3):
                right = rng.random() < (0.7 if hard else 1.0)
                clusters.append(str(picture))
                plain.append(right)
                row.append(right and rng.random() < (0.5 if hard else 0.9))
        drawn = resample(clusters, seed=number, draws=400)
        found = estimate(retained(drawn.mean(row), drawn.mean(plain)))
        # (0.3 * 0.7 * 0.5 + 0.7 * 0.9) / (0.3 * 0.7 + 0.7)
        hits += found.low <= 100 * 0.735 / 0.91 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


# -- nothing to go by ------------------------------------------------------------------------------

NOTHING = Estimate(None, None, None)


def test_no_samples():
    nothing = resample([]).mean([])
    assert np.isnan(nothing).all()
    assert nothing.shape == (2001,)
    assert estimate(nothing) == estimate(retained(nothing, nothing)) == NOTHING
    assert estimate(mean_over_tasks([])) == NOTHING


def test_plain_not_above_blank():
    drawn = resample(["a", "b", "c"])
    same, better = drawn.mean([1, 1, 0]), drawn.mean([1, 1, 1])
    assert estimate(retained_above_blank(better, same, same)) == NOTHING
    assert estimate(retained_above_blank(better, same, better)) == NOTHING
    assert estimate(retained(same, drawn.mean([0, 0, 0]))) == NOTHING


def test_plain_hardly_above_blank():
    """A value without an interval: every third resample lacks the one picture that tells them apart."""
    drawn = resample(["a", "b", "c"])
    found = estimate(retained_above_blank(*(drawn.mean(v) for v in ([1, 0, 1], [1, 1, 1], [1, 1, 0]))))
    assert found == Estimate(0, None, None)


def test_one_picture():
    drawn = resample(["a", "a"])
    assert estimate(drawn.mean([1, 0])) == Estimate(0.5, 0.5, 0.5)


def test_values_must_match_samples():
    with pytest.raises(ValueError, match="one value per sample: 2, got 1"):
        resample(["a", "b"]).mean([1.0])
