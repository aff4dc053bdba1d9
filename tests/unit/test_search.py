"""What a search tries, how it is packed and who goes on, against cases worked by hand."""

import sys
from typing import Any

import numpy as np
import pytest

from kd_ray import Config, proposals, search
from kd_ray.errors import ConfigError
from kd_ray.knobs import Student, Tune
from kd_ray.recovery import Measure, compared
from kd_ray.search import Tried

LOWER, HIGHER = Measure(), Measure(higher_is_better=True)
T, ALPHA, RATE, DECAY = (f"student.{name}" for name in ("temperature", "alpha", "learning_rate", "weight_decay"))
HIDDEN, BATCH = "student.model.hidden", "student.batch_size"


def tune(space: dict[str, Any], **others: Any) -> Tune:
    return Config.of({"tune": {"space": space, **others}}).tune


def said(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        search.check(Config.of(values))
    return str(caught.value).removeprefix("config: ")


def test_a_grid_is_every_combination_and_the_recipe_first() -> None:
    student = Student(temperature=7.0, alpha=0.25)
    found = search.combinations(tune({T: [1, 2], ALPHA: [0.0, 1.0]}), student, 0, is_regression=False)
    assert found == [
        {T: 7.0, ALPHA: 0.25},
        {T: 1, ALPHA: 0.0},
        {T: 1, ALPHA: 1.0},
        {T: 2, ALPHA: 0.0},
        {T: 2, ALPHA: 1.0},
    ]


def test_the_default_grid_is_64_combinations_with_the_recipe_among_them() -> None:
    config = Config()
    found = search.combinations(config.tune, config.student, 0, is_regression=False)
    assert len(found) == 64
    assert found[0] == {T: 3.0, ALPHA: 1.0, RATE: 2e-3}


def test_a_recipe_that_a_grid_writes_as_a_whole_number_is_not_tried_twice() -> None:
    found = search.combinations(tune({T: [1, 3]}), Student(), 0, is_regression=False)
    assert found == [{T: 3.0}, {T: 1}]


def test_random_combinations_lie_in_their_ranges_and_depend_on_the_seed_alone() -> None:
    space = {
        RATE: {"low": 1e-4, "high": 1e-2, "log": True},
        ALPHA: {"low": 0, "high": 1},
        HIDDEN: [[8], [16, 8]],
        BATCH: {"low": 16, "high": 64},
    }
    wanted = tune(space, search="random", trials=400)
    found = search.combinations(wanted, Student(), 5, is_regression=False)
    assert found == search.combinations(wanted, Student(), 5, is_regression=False)
    assert found != search.combinations(wanted, Student(), 6, is_regression=False)
    assert len(found) == 401
    rates = np.array([one[RATE] for one in found[1:]])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-2
    assert np.median(rates) == pytest.approx(1e-3, rel=0.4)
    assert {str(one[HIDDEN]) for one in found[1:]} == {"[8]", "[16, 8]"}
    assert all(isinstance(one[BATCH], int) and 16 <= one[BATCH] <= 64 for one in found[1:])
    for one in found:
        search.student_of(Student(), one)


def test_a_regression_has_no_temperature_to_vary() -> None:
    found = search.combinations(tune({T: [1, 2], ALPHA: [0.5]}), Student(), 0, is_regression=True)
    assert found == [{ALPHA: 1.0}, {ALPHA: 0.5}]


def test_a_combination_becomes_the_students_section() -> None:
    student = search.student_of(Student(epochs=7), {T: 2, HIDDEN: [5, 4], DECAY: 0.1, BATCH: 8})
    expected = {"epochs": 7, "temperature": 2, "weight_decay": 0.1, "batch_size": 8, "model": {"hidden": [5, 4]}}
    assert student == Student.model_validate(expected)


def test_packs_have_one_architecture_and_batch_size_and_like_temperatures() -> None:
    every = [{HIDDEN: [8 if n % 2 else 16], T: float(n % 3)} for n in range(12)]
    assert search.cut(range(12), every, 4, None) == [[0, 6, 4], [10, 2, 8], [3, 9, 1], [7, 5, 11]]
    assert search.cut([1, 2, 3], every, 1, None) == [[3, 1], [2]]
    assert search.cut(range(12), every, 4, 4) == [[0, 6, 4, 10], [2, 8], [3, 9, 1, 7], [5, 11]]
    assert search.cut([0, 1], [{BATCH: 8}, {BATCH: 16}], 2, None) == [[0], [1]]
    assert search.cut([], every, 4, None) == []


@pytest.mark.parametrize(
    ("epochs", "count", "eta", "expected"),
    [(400, 1, 4, [400]), (400, 2, 4, [100, 400]), (400, 3, 3, [45, 134, 400]), (3, 3, 4, [1, 3]), (1, 8, 2, [1])],
)
def test_each_rung_is_an_etath_of_the_next(epochs: int, count: int, eta: int, expected: list[int]) -> None:
    assert search.rungs(epochs, count, eta) == expected


def test_the_best_of_each_eta_and_the_recipe_go_on() -> None:
    scores = dict(enumerate([0.9, 0.1, 0.5, None, 0.2, 0.8, 0.7, 0.6]))
    assert search.promoted(scores, 4, LOWER, always=0) == [0, 1, 4]
    assert search.promoted(scores, 4, HIGHER, always=0) == [0, 5]
    assert search.promoted(scores, 3, LOWER, always=0) == [0, 1, 2, 4]
    assert search.promoted({0: None, 1: None}, 4, LOWER, always=0) == [0]
    assert search.promoted({3: 1.0, 1: 1.0, 2: 1.0}, 3, LOWER, always=1) == [1]


def test_the_leaderboard_has_who_came_furthest_first_and_who_diverged_last() -> None:
    def tried(number: int, rung: int, score: float | None) -> Tried:
        return Tried(number=number, rung=rung, epochs=1, score=score, loss=None, seconds=1.0, pack="p")

    given = [tried(0, 1, 0.5), tried(1, 0, 0.1), tried(2, 1, 0.4), tried(3, 0, None), tried(4, 0, 0.05)]
    assert [one.number for one in search.leaderboard(given, LOWER)] == [2, 0, 4, 1, 3]
    assert [one.number for one in search.leaderboard(given, HIGHER)] == [0, 2, 1, 4, 3]


@pytest.mark.parametrize("label_N", [np.arange(103) % 3, np.array([1] * 97 + [0] * 6), np.linspace(-5, 5, 103)])
def test_the_rows_that_choose_and_those_that_judge_are_alike_and_share_none(label_N: np.ndarray) -> None:
    choosing, judging = search.halves(label_N)
    assert sorted([*choosing, *judging]) == list(range(103))
    assert len(choosing) - len(judging) == 1
    assert label_N[choosing].mean() == pytest.approx(label_N[judging].mean(), abs=0.1)
    for label in np.unique(label_N):
        assert abs(int((label_N[choosing] == label).sum()) - int((label_N[judging] == label).sum())) <= 1


def test_what_another_search_changes_is_said_key_by_key() -> None:
    before = {"seed": 1, "tune": {"space": {T: [1, 2], ALPHA: [0.5]}, "rungs": 2}}
    now = {"seed": 1, "tune": {"space": {T: [1, 3], RATE: [1e-3]}, "rungs": 2}}
    assert search.differences(before, now) == [
        "tune.space: student.temperature was [1, 2], is [1, 3]",
        "tune.space: student.alpha was [0.5], is nothing",
        "tune.space: student.learning_rate was nothing, is [0.001]",
    ]
    assert search.differences(before, before) == []


def test_a_gain_is_paired_and_has_the_sign_of_better() -> None:
    rng = np.random.default_rng(0)
    theirs_N = rng.normal(5, 3, 500)
    ours_N = theirs_N - rng.normal(0.2, 0.1, 500)
    ours, theirs, (value, low, high) = compared(ours_N, theirs_N, LOWER)
    assert 0.15 < low < value < high < 0.25
    assert value == pytest.approx(theirs[0] - ours[0])
    for interval, row_N in ((ours, ours_N), (theirs, theirs_N)):
        width = 1.96 * row_N.std() / np.sqrt(500)
        assert interval == pytest.approx((row_N.mean(), row_N.mean() - width, row_N.mean() + width), abs=0.03)
    assert compared(theirs_N, theirs_N + 0.2, HIGHER)[2][2] == pytest.approx(-0.2)
    assert compared(np.full(9, 1.0), np.full(9, 4.0), Measure(of_mean=np.sqrt))[2] == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("tuned", "line"),
    [
        ({"space": {}}, "tune.space: must name a knob to vary; got {}"),
        (
            {"space": {"student.alfa": [1]}},
            "tune.space: student.alfa: cannot be searched; did you mean 'student.alpha'? allowed here: "
            "student.temperature, student.alpha, student.learning_rate, student.weight_decay, student.batch_size, "
            "student.mix, student.model.hidden",
        ),
        ({"space": {T: []}}, f"tune.space: {T}: must be a list of values, or {{low, high, log}}; got []"),
        ({"space": {T: 3}}, f"tune.space: {T}: must be a list of values, or {{low, high, log}}; got 3"),
        ({"space": {T: [1, 0]}}, f"tune.space: {T}: must be a number above 0; got 0"),
        ({"space": {ALPHA: [True]}}, f"tune.space: {ALPHA}: must be a number in [0, 1]; got True"),
        ({"space": {HIDDEN: [[0]]}}, f"tune.space: {HIDDEN}: must be a list of whole numbers >= 1; got 0"),
        ({"space": {HIDDEN: [8, 16]}}, f"tune.space: {HIDDEN}: must be a list of whole numbers >= 1; got 8"),
        (
            {"space": {"student.mix": [{}, {"noise": 3}]}},
            "tune.space: student.mix: must be a mapping of kinds of rows to numbers in [0, 1]; got 3",
        ),
        ({"space": {T: [2, 2]}}, f"tune.space: {T}: must be different values; got [2, 2]"),
        (
            {"space": {T: {"low": 1, "high": 2}}},
            f"tune.space: {T}: a grid takes a list of values; got {{'low': 1, 'high': 2}}: list them, or set "
            "tune.search to random",
        ),
        (
            {"space": {T: {"low": 2, "high": 2}}, "search": "random"},
            f"tune.space: {T}: low must be below high; got 2 and 2",
        ),
        (
            {"space": {DECAY: {"low": 0, "high": 1, "log": True}}, "search": "random"},
            f"tune.space: {DECAY}: low must be above 0 where log is true; got 0",
        ),
        (
            {"space": {T: {"low": 1, "max": 2}}, "search": "random"},
            f"tune.space: {T}: must be {{low, high}} or {{low, high, log: true}}; got {{'low': 1, 'max': 2}}",
        ),
        (
            {"space": {T: {"low": "1", "high": 2}}, "search": "random"},
            f"tune.space: {T}: low and high must be numbers; got {{'low': '1', 'high': 2}}",
        ),
        (
            {"space": {ALPHA: {"low": 0, "high": 1.5}}, "search": "random"},
            f"tune.space: {ALPHA}: must be a number in [0, 1]; got 1.5",
        ),
        (
            {"space": {HIDDEN: {"low": 8, "high": 16}}, "search": "random"},
            f"tune.space: {HIDDEN}: must be a list of values; got {{'low': 8, 'high': 16}}",
        ),
        ({"search": "tpe"}, "tune.search: must be grid, random or optuna; got 'tpe'"),
        ({"eta": 1}, "tune.eta: must be a whole number in [2, 100]; got 1"),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_line(tuned: dict[str, Any], line: str) -> None:
    assert said({"tune": tuned}) == line


def test_a_search_without_validation_rows_is_refused() -> None:
    assert said({}) == "tune: chooses by the validation rows and there are none; set data.split.valid, such as 0.1"


def test_a_search_of_a_regressions_temperature_alone_is_refused() -> None:
    values = {"data": {"task": "regression", "split": {"valid": 0.1}}, "tune": {"space": {T: [1, 2]}}}
    assert said(values) == "tune.space: a regression has no temperature: name another knob to vary"


def test_layers_that_the_dropout_does_not_fit_are_refused() -> None:
    values = {
        "data": {"split": {"valid": 0.1}},
        "student": {"model": {"hidden": [8, 4], "dropout": [0.1, 0.0]}},
        "tune": {"space": {HIDDEN: [[8, 4], [8]]}},
    }
    assert said(values).endswith("must have as many layers as student.model.dropout, 2; got [8]")


def test_a_missing_optuna_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"tune.search: optuna needs the package optuna: pip install 'kd-ray\[optuna"):
        proposals.check_installed()


def test_optuna_names_the_same_combinations_for_the_same_scores() -> None:
    pytest.importorskip("optuna")
    space = {T: [1, 2, 4], RATE: {"low": 1e-4, "high": 1e-2, "log": True}}

    def asked() -> list[Any]:
        tpe, found = proposals.Tpe(space, 3, higher_is_better=False), []
        for wave in range(4):
            found += [tpe.ask() for _ in range(8)]
            for number in range(8 * wave, 8 * wave + 8):
                tpe.tell(number, None if number == 5 else abs(np.log(found[number][RATE] / 1e-3)))
        return found

    first = asked()
    assert first == asked()
    late = [abs(np.log(one[RATE] / 1e-3)) for one in first[24:]]
    assert np.median(late) < np.median([abs(np.log(one[RATE] / 1e-3)) for one in first[:8]])
