"""What a person reads at the end of a run."""

import io
from typing import Any

import pytest
from rich.console import Console

from kd_ray import Config, Result
from kd_ray.summary import duration, show, show_latency, show_leaderboard
from kd_ray.wording import quantity

SHARE = {"value": 0.8, "low": 0.7, "high": 0.9, "edge": {}, "gain": {}}


def printed(scores: dict[str, Any], recovered: dict[str, Any], **more: Any) -> str:
    evaluation = {
        "metrics": dict.fromkeys(("ensemble", "teacher_mean", "student", "baseline"), scores),
        "replica_means": dict.fromkeys(("student", "baseline"), scores),
        "recovered": recovered,
        "parameters": {"teacher": 1000, "ensemble": 3000, "student": 100, "compression": 30.0},
        "bytes": {"ensemble": 0, "student": 500},
        "rows": {"test": 1200},
        "teachers": [scores] * 3,
        **more,
    }
    console = Console(width=100, file=io.StringIO())
    bundle = {
        "variants": [
            {"name": "student", "bytes": 15_800, "recommended": True},
            {"name": "int8", "bytes": 7_700, "recommended": True},
            {"name": "pruned-90", "bytes": 1_000, "recommended": False},
        ]
    }
    done = Result(path="runs/a", config=Config(), evaluation=evaluation, bundle=bundle, seconds={"data": 1.0})
    show(done, console)
    return console.file.getvalue()


def headings(text: str) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[2].strip("┃").split("┃")]


CLASSES = {"accuracy": 0.9, "balanced_accuracy": 0.61, "nll": 0.3}
RECOVERED = {"accuracy": SHARE, "nll": SHARE}


@pytest.mark.parametrize(
    ("class_rows", "shown"),
    [([650, 550], False), ([899, 301], False), ([901, 299], True), ([500, 400, 300], False), ([601, 400, 199], True)],
)
def test_balanced_accuracy_is_shown_where_a_class_has_one_and_a_half_times_its_even_share(
    class_rows: list[int], shown: bool
) -> None:
    text = printed(CLASSES, RECOVERED, class_rows=class_rows)
    assert headings(text) == ["model", "parameters", "accuracy", *["balanced accuracy"] * shown, "NLL"]
    assert ("0.6100" in text) == shown


def test_a_regression_shows_rmse_in_the_targets_units_and_r2() -> None:
    text = printed({"rmse": 54321.9, "mae": 1.0, "r2": 0.75}, {"rmse": SHARE})
    assert headings(text) == ["model", "parameters", "RMSE", "R²"]
    assert "54,322" in text
    assert "0.7500" in text
    assert "recovered, RMSE: 0.80 of the ensemble's edge (95 % interval 0.70 to 0.90)" in text


@pytest.mark.parametrize(
    ("ensemble", "says"),
    [(25_000, "The student's 500 bytes are 50 times less than the ensemble's."), (0, "The student has 500 bytes.")],
)
def test_sizes_are_compared_by_bytes_where_a_teacher_has_no_parameters(ensemble: int, says: str) -> None:
    uncounted = {"teacher": None, "ensemble": None, "student": 100, "compression": None}
    sizes = {"ensemble": ensemble, "student": 500}
    text = printed(CLASSES, RECOVERED, class_rows=[600, 600], parameters=uncounted, bytes=sizes)
    assert says in text


def test_r2_that_is_not_given_is_a_dash() -> None:
    text = printed({"rmse": 0.5, "mae": 1.0, "r2": None}, {"rmse": SHARE})
    assert text.count(" - │") == 5


def test_without_an_edge_the_differences_are_given_in_the_targets_units() -> None:
    edge, gain = {"value": 12.0, "low": -1.5, "high": 25.0}, {"value": -3.0, "low": -8.0, "high": 0.0}
    found = {"value": None, "low": None, "high": None, "edge": edge, "gain": gain}
    text = printed({"rmse": 100.0, "mae": 1.0, "r2": 0.5}, {"rmse": found})
    assert "the ensemble leads the baseline by +12.00 (-1.500 to +25.00), the" in " ".join(text.split())
    assert "student by -3.000 (-8.000 to +0.000)" in " ".join(text.split())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (53.1234, "53.12"),
        (0.012346, "0.01235"),
        (1234567.8, "1,234,568"),
        (0.0, "0.000"),
        (-2.5, "-2.500"),
        (1e-9, "0.000000001000"),
    ],
)
def test_a_quantity_has_four_digits(value: float, said: str) -> None:
    assert quantity(value) == said


def test_the_file_to_deploy_is_named_with_the_variants_that_lose_little() -> None:
    text = printed(CLASSES, {"accuracy": SHARE}, class_rows=[50, 50])
    assert "to deploy: runs/a/export/student.onnx, 15.8 kB; int8, 7.7 kB\n" in text


@pytest.mark.parametrize(
    ("seconds", "says"), [(2.5, "2.5 s"), (0.07, "70 ms"), (8.67e-6, "8.67 µs"), (1e-7, "0.1 µs"), (609e-6, "609 µs")]
)
def test_a_duration_has_the_unit_that_suits(seconds: float, says: str) -> None:
    assert duration(seconds) == says


def test_latencies_are_shown_beside_how_many_times_faster_than_the_loop_they_are() -> None:
    def calls(one: float, many: float) -> dict:
        return {"threads": {"1": {"1": {"p50": one}, "1024": {"p50": many}}}}

    found = {
        "machine": {"cpu": "a processor", "cores": 1},
        "models": {"ensemble_loop": calls(600e-6, 12e-3), "student": calls(10e-6, 150e-6)},
    }
    console = Console(width=80, file=io.StringIO())
    show_latency(found, console)
    text = console.file.getvalue()
    for word in ("median time of a call, one thread", "ensemble loop", "10 µs", "60 x", "150 µs", "80 x"):
        assert word in text


def leaderboard(best: float | None, low: float, *, is_untuned: bool = False) -> str:
    entries: list[dict[str, Any]] = [
        {
            "knobs": {"student.learning_rate": 1e-3 * n},
            "epochs": 40,
            "seconds": 1.5,
            "score": 0.1 * n,
            "is_untuned": False,
        }
        for n in range(1, 13)
    ]
    entries[0]["score"], entries[0 if is_untuned else 11]["is_untuned"] = best, True
    figures = {"best": 0.12, "untuned": 0.14, "gain": 0.02}
    judged = {name: best and {"value": value, "low": low, "high": value + 0.02} for name, value in figures.items()}
    board = {
        "metric": "nll",
        "rows": {"choosing": 400, "judging": 399},
        "measured": [{"hidden": [512], "bytes": 90_000, "milliseconds": 0.0912, "is_within": False}],
        "best": entries[0],
        "untuned": entries[0 if is_untuned else 11],
        "judged": judged,
        "combinations": entries,
    }
    console = Console(width=100, file=io.StringIO())
    show_leaderboard(board, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_leaderboard_shows_the_best_ten_and_the_recipe_as_configured() -> None:
    text = leaderboard(0.1, 0.01)
    assert "Left out by the limits: [512] (90,000 bytes, 0.0912 ms)." in text
    assert "12 combinations, chosen by 400 validation rows" in text
    assert text.count("40 ") == 11
    assert "0.012" in text
    assert "as configured" in text
    assert "0.011" not in text


@pytest.mark.parametrize(
    ("best", "low", "is_untuned", "sentence"),
    [
        (
            0.1,
            0.01,
            False,
            "The best is better than the recipe as configured: NLL 0.1200 (0.0100 to 0.1400) against 0.1400 (0.0100 to "
            "0.1600), better by +0.0200 (+0.0100 to +0.0400) on the other 399 validation rows, which had no part in "
            "the choice.",
        ),
        (
            0.1,
            -0.01,
            False,
            "The best is not clearly better than the recipe: NLL 0.1200 (-0.0100 to 0.1400) against",
        ),
        (0.1, 0.0, True, "No combination was chosen before the recipe as configured: NLL 0.1200"),
        (None, 0.0, False, "All of them diverged."),
    ],
)
def test_a_leaderboard_says_whether_anything_is_better(
    best: float | None, low: float, is_untuned: bool, sentence: str
) -> None:
    assert sentence in leaderboard(best, low, is_untuned=is_untuned).replace("\n", " ")
