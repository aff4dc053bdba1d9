"""The search's part of a run's page: what it shows is what the leaderboard says."""

from pathlib import Path
from typing import Any

import pytest
from made_run import REGRESSION, classification, made_run, search
from test_report import Page, written

from kd_ray.report.searched import axis, verdict
from kd_ray.search import LEADERBOARD

T, ALPHA, RATE = "student.temperature", "student.alpha", "student.learning_rate"
SPACE: dict[str, list[Any]] = {T: [3.0, 1.0], ALPHA: [0.5, 1.0], RATE: [1e-3, 4e-3]}
TWO = classification("yes", "no")


def cells(page: str) -> list[str]:
    return [cell.partition("</td>")[0] for cell in page.partition('class="heat search"')[2].split("<td ")[1:5]]


def test_each_cell_of_the_map_is_the_best_of_its_combinations(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=TWO)
    search(run, SPACE)
    text = written(run)
    board = run.read_json(LEADERBOARD)
    best: dict[tuple[float, float], float] = {}
    for entry in board["combinations"]:
        if entry["score"] is not None:
            at = (entry["knobs"][T], entry["knobs"][ALPHA])
            best[at] = min(best.get(at, 9.0), entry["score"])
    rows = [best[t, alpha] for t in (1.0, 3.0) for alpha in (0.5, 1.0)]
    shown = cells(text)
    assert [cell.partition('data-value="')[2].partition('"')[0] for cell in shown] == [str(score) for score in rows]
    assert ["best" in cell for cell in shown] == [False, False, True, False]
    assert ["stopped" in cell for cell in shown] == [False, True, False, False]
    assert "--heat: 70%" in shown[2]
    assert "--heat: 8%" in shown[0]


def test_the_best_and_the_recipe_as_configured_are_shown_with_their_intervals(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=TWO)
    search(run, SPACE)
    page = Page(written(run))
    assert "The search found a better recipe. 8 combinations of temperature, alpha and learning rate" in page.text
    judged = run.read_json(LEADERBOARD)["judged"]
    for name, interval in judged.items():
        assert {(f"search.judged.{name}.{end}", value) for end, value in interval.items()} <= set(page.figures)
    assert "kd-ray run --tuned takes it over" in page.text
    assert "Left out by the limits: [512] (90,000 bytes, 0.0912 ms)." in page.text


def test_a_tuned_student_is_said_to_have_the_best_combination(tmp_path: Path) -> None:
    student = {"model": {"hidden": [4]}, "replicas": 2, "temperature": 3.0, "alpha": 0.5, "learning_rate": 1e-3}
    run = made_run(tmp_path, task=TWO, student=student)
    search(run, SPACE)
    assert "The student of this page has the best combination" in Page(written(run, student=student)).text


@pytest.mark.parametrize("other", [None, "of other soft targets"])
def test_without_a_search_of_these_soft_targets_there_is_none_on_the_page(tmp_path: Path, other: str | None) -> None:
    run = made_run(tmp_path, task=TWO)
    if other:
        search(run, SPACE, soft_targets=other)
    assert 'id="search"' not in written(run)


def test_a_regression_is_mapped_by_the_knobs_that_it_has(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=REGRESSION)
    search(run, {ALPHA: [0.5, 1.0], RATE: [1e-3, 4e-3]}, metric="rmse")
    assert "Best RMSE by alpha and learning rate" in Page(written(run)).text
    search(run, {ALPHA: [0.5, 0.7, 1.0]}, metric="rmse")
    assert 'class="heat search"' not in written(run)


def test_many_numbers_are_cut_into_ranges_of_equally_many() -> None:
    found = axis("alpha", [n / 100 for n in range(60)])
    assert found.labels == ["0–0.09", "0.1–0.19", "0.2–0.29", "0.3–0.39", "0.4–0.49", "0.5–0.59"]
    assert found.place == [n // 10 for n in range(60)]


def test_few_numbers_are_in_order_and_other_values_as_they_come() -> None:
    assert axis("temperature", [3.0, 1.0, 3.0]).place == [1, 0, 1]
    layers = axis("hidden layers", [[64, 32], [8], [64, 32]])
    assert (layers.labels, layers.place) == (["[64, 32]", "[8]"], [0, 1, 0])
    assert axis("mix", [{}, {"noise": 0.5, "swap": 1}, {}]).labels == ["all", "noise 0.5, swap 1"]


@pytest.mark.parametrize(
    ("low", "gone", "is_untuned", "says"),
    [
        (0.1, (), False, "The search found a better recipe."),
        (-0.1, (), False, "The best of the search is not clearly better than the recipe as configured."),
        (0.0, (), True, "No combination was chosen before the recipe as configured."),
        (0.1, ("gain", "untuned"), False, "The recipe as configured diverged."),
        (0.1, ("gain", "untuned", "best"), False, "All combinations diverged."),
    ],
)
def test_the_verdict_is_that_of_the_interval(low: float, gone: tuple[str, ...], is_untuned: bool, says: str) -> None:
    judged = {name: None if name in gone else {"low": low} for name in ("best", "untuned", "gain")}
    assert verdict({"judged": judged, "best": {"is_untuned": is_untuned}}) == says
