"""Probes and the arithmetic of the other tasks: gradients by differences, optima by another solver, tables by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from curate.errors import CurateError
from curate.evaluate import few_shot, interval, linear_probe, robustness, typographic
from curate.evaluate.multilabel import average_precision, mean_average_precision

rng = np.random.default_rng(0)
CENTRES = rng.standard_normal((6, 8))
LABELS = rng.integers(0, 6, 240)
FEATURES = (CENTRES[LABELS] + 1.5 * rng.standard_normal((240, 8))).astype(np.float32)
FEATURES /= np.linalg.norm(FEATURES, axis=1, keepdims=True)
KEYS = [f"image {at}" for at in range(240)]


def test_the_gradient_of_the_probe_is_that_of_its_loss():
    rows, right = np.hstack([FEATURES[:40], np.ones((40, 1))]), np.eye(6)[LABELS[:40]]
    at = rng.standard_normal(6 * 9)
    value, slope = (lambda x: linear_probe.loss(x, rows, right, 0.3)[0]), linear_probe.loss(at, rows, right, 0.3)[1]
    assert check_grad(value, lambda _: slope, at) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_the_probe_is_the_optimum_that_another_solver_finds(strength):
    x, y = torch.tensor(FEATURES, dtype=torch.float64), torch.tensor(LABELS)
    weights, bias = torch.zeros(6, 8, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    solver = torch.optim.LBFGS([weights.requires_grad_(), bias.requires_grad_()], max_iter=2000, history_size=50,
                               tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe")  # fmt: skip

    def objective():
        solver.zero_grad()
        cross = torch.nn.functional.cross_entropy(x @ weights.T + bias, y, reduction="sum")
        value = cross + strength / 2 * weights.square().sum()
        value.backward()
        return value

    solver.step(objective)
    best = float(objective().detach())
    probe = linear_probe.fit(FEATURES, LABELS, 6, strength)
    ours = torch.nn.functional.cross_entropy(torch.tensor(probe.scores(FEATURES)), y, reduction="sum")
    assert float(ours) + strength / 2 * (probe.weights**2).sum() == pytest.approx(best, rel=1e-5)
    assert probe.converged


def test_a_class_without_training_images_is_never_predicted():
    probe = linear_probe.fit(FEATURES[LABELS != 2], LABELS[LABELS != 2], 6, 1.0)
    assert 2 not in probe.scores(FEATURES).argmax(axis=1)


def test_the_sweep_halves_the_interval_around_the_best_of_97_values():
    best, tried = linear_probe.search(lambda strength: -abs(np.log10(strength) - 0.4))
    assert best == pytest.approx(10**0.375, rel=1e-5)
    steps = {round(np.log10(value) * 8) for value in tried}
    assert steps == {-48, -32, -16, 0, 16, 32, 48} | {-8, 8} | {-4, 4} | {2, 6} | {3, 5}


def test_of_equally_good_strengths_the_strongest_is_taken_and_the_search_stays_inside():
    assert linear_probe.search(lambda strength: 1.0)[0] == 1e6
    assert linear_probe.search(lambda strength: -strength)[0] == 1e-6


def test_validation_images_are_a_fifth_of_each_class_and_never_its_only_one():
    labels = np.array([0] * 50 + [1] * 7 + [2])
    keys = [f"k{at}" for at in range(58)]
    chosen = linear_probe.drawn_validation(keys, labels)
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [10, 2, 0]
    order = rng.permutation(58)
    again = linear_probe.drawn_validation([keys[at] for at in order], labels[order])
    assert (again == chosen[order]).all(), "the order of the files decides nothing"


def test_shots_are_k_of_each_class_none_for_validation_and_more_shots_hold_the_fewer():
    held_out = linear_probe.drawn_validation(KEYS, LABELS)
    few, more = (few_shot.drawn(LABELS, KEYS, held_out, k, 3) for k in (2, 8))
    assert np.bincount(LABELS[few]).tolist() == [2] * 6
    assert np.bincount(LABELS[more]).tolist() == [8] * 6
    assert set(few) < set(more)
    assert not held_out[more].any()
    assert set(few) != set(few_shot.drawn(LABELS, KEYS, held_out, 2, 4))


@pytest.mark.slow
def test_more_shots_and_all_images_reach_more():
    train, test = slice(0, 160), slice(160, 240)
    held_out = linear_probe.drawn_validation(KEYS[train], LABELS[train])
    given = (FEATURES[train], LABELS[train])
    found = few_shot.few_shot(*given, KEYS[train], held_out, FEATURES[test], LABELS[test], 6, (1, 8), 3)
    one, eight = found["shots"]["1"], found["shots"]["8"]
    assert 1 / 6 < one["value"] < eight["value"]
    assert one["value"] == pytest.approx(np.mean(one["draws"]), abs=1e-6)
    assert one["deviation"] == pytest.approx(np.std(one["draws"], ddof=1), abs=1e-6)
    assert len(set(one["draws"])) > 1
    whole = linear_probe.linear_probe(*given, held_out, FEATURES[test], LABELS[test], 6)
    assert whole["top1"]["value"] > one["value"]
    assert whole["train_images"] + whole["validation_images"] == 160


def test_intervals_of_runs_are_students_and_of_class_means_cover():
    found = interval.mean_of_runs([0.5, 0.6, 0.55])
    assert found["interval95"] == pytest.approx([0.4257931144124836, 0.6742068855875165], abs=1e-6)  # scipy.stats.t's
    assert "interval95" not in interval.mean_of_runs([0.5])
    shares, trials = np.array([0.9, 0.5, 0.1, 1.0]), np.full(4, 20)
    inside = [low <= shares.mean() <= high for low, high in
              (interval.mean_of_shares(rng.binomial(trials, shares), trials) for _ in range(400))]  # fmt: skip
    assert 362 <= sum(inside) <= 395  # of a binomial with a chance of 95 %: its p is over 1e-4


def test_the_gap_of_two_shares_is_newcombes():
    # Newcombe 1998, table II, method 10: 56/70 less 48/80
    found = interval.difference((56, 70), (48, 80))
    assert found["value"] == pytest.approx(0.2)
    assert found["interval95"] == pytest.approx([0.0524, 0.3339], abs=1e-4)


def test_average_precision_is_the_mean_precision_at_the_right_images():
    scores, shown = np.array([[0.9], [0.8], [0.7], [0.6]]), np.array([[True], [False], [True], [False]])
    assert average_precision(scores, shown, np.ones((1, 4)))[0, 0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(scores, shown, np.array([[0.0, 1, 0, 1]]))[0, 0])


def test_map_leaves_classes_without_images_out_and_its_interval_holds_the_value():
    features, classes = np.eye(6, dtype=np.float32)[LABELS], np.eye(7, 6, dtype=np.float32)
    shown = np.eye(7, dtype=bool)[LABELS]
    found = mean_average_precision(features @ classes.T, shown)
    assert found["mean_average_precision"]["value"] == 1
    assert found["classes_without_images"] == 1
    noisy = mean_average_precision((features + rng.standard_normal(features.shape)) @ classes.T, shown)
    low, high = noisy["mean_average_precision"]["interval95"]
    assert found["chance"] < low < noisy["mean_average_precision"]["value"] < high < 1


def test_a_shift_is_compared_on_the_classes_that_it_has():
    kept = robustness.subset(["cat", "owl"], ["dog", "owl", "cat"], "shift", "base")
    assert kept.tolist() == [2, 1]
    scores = np.array([[9, 1, 5], [9, 1, 0], [0, 3, 1], [9, 0, 0]])
    # of the images of owl and cat, with dog's scores left out: right, right, right; the dog does not count
    assert robustness.restricted(scores, np.array([2, 1, 1, 0]), kept) == (3, 3)
    with pytest.raises(CurateError, match="1 of 2 classes of shift are none of base, such as 'fox'"):
        robustness.subset(["cat", "fox"], ["cat", "dog"], "shift", "base")
    with pytest.raises(CurateError, match="base has two classes called 'crane'"):
        robustness.subset(["crane"], ["crane", "crane", "dog"], "shift", "base")


def test_effective_robustness_is_what_lies_above_the_line_of_other_models():
    def expected(base):  # on the logit scale: 0.9 x - 1
        return 1 / (1 + np.exp(-(0.9 * np.log(base / (1 - base)) - 1)))

    line = robustness.line_through([(base, expected(base)) for base in (0.5, 0.6, 0.7, 0.8)], "shift")
    assert (line.slope, line.offset) == pytest.approx((0.9, -1))
    found = robustness.compared((750, 1000), (700, 1000), line)
    assert found["gap"]["value"] == pytest.approx(0.05)
    assert found["effective_robustness"]["value"] == pytest.approx(0.7 - expected(0.75), abs=1e-6)
    with pytest.raises(CurateError, match="2 baseline models tell of shift, a line needs 3"):
        robustness.line_through([(0.5, 0.4), (0.6, 0.5)], "shift")
    with pytest.raises(CurateError, match="the same accuracy"):
        robustness.line_through([(0.5, 0.4)] * 3, "shift")


def test_the_written_word_is_wrong_repeats_and_stays_on_the_picture():
    attack = typographic.Written(("cat", "dog", "a very long name of a class that hardly fits"), 64, False, seed=5)
    words = [attack.word(f"image {at}", at % 3) for at in range(300)]
    assert words == [attack.word(f"image {at}", at % 3) for at in range(300)]
    assert all(word != at % 3 for at, word in enumerate(words))
    assert min(np.bincount(words)) > 60
    assert words != [typographic.Written(attack.classnames, 64, False, seed=6).word(f"image {at}", at % 3)
                     for at in range(300)]  # fmt: skip
    grey = np.full((64, 64, 3), 127, np.uint8)
    changed = (typographic.labelled(grey, "iPod") != 127).any(axis=(1, 2))
    assert changed[44:52].all()
    assert not changed[:32].any()
    assert typographic.labelled(grey, "iPod").min() < 50


def test_an_attack_counts_what_it_costs_and_who_follows_the_word():
    before, after = np.array([0, 0, 1, 2]), np.array([1, 0, 1, 0])
    found = typographic.fooled(before, after, np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    assert found["before"]["value"] == 0.75
    assert found["after"]["value"] == 0.5
    assert found["follow_the_word"]["value"] == 0.5
    assert found["same_without_the_word"]["value"] == 0
    assert found["right_ones_that_follow"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert typographic.examples(before, after, np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))[:2] == [0, 3]
