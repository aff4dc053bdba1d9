"""The page of a run, and of several: what it shows is what the run's files say, and text of the user is only text."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_run import REGRESSION, SCRIPT, at, classification, config_of, export, made_run

from kd_ray import report
from kd_ray.errors import ManifestError
from kd_ray.rundir import Manifest, RunDir

TWO = classification(SCRIPT, "$x_1$ & <b>")


class Page(HTMLParser):
    """Tags with their attributes, figures by key, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[tuple[str, Any]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if "data-key" in found:
            self.figures.append((str(found["data-key"]), json.loads(found["data-value"] or "")))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]


def written(run: RunDir, **changes: Any) -> str:
    report.write(config_of(run, **changes), run, None, lambda *_: None, "print")  # type: ignore[arg-type]
    return run.read_bytes(report.FILE).decode()


def leaves(value: Any, prefix: str) -> Iterator[str]:
    for key, one in value.items():
        if isinstance(one, dict):
            yield from leaves(one, f"{prefix}.{key}")
        elif not isinstance(one, list | str):
            yield f"{prefix}.{key}"


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return made_run(tmp_path_factory.mktemp("runs"), task=TWO)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return made_run(tmp_path_factory.mktemp("runs"), task=REGRESSION)


@pytest.mark.parametrize("which", ["classes", "numbers"])
def test_every_figure_is_that_of_evaluation_json(which: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(which)
    page, evaluation = Page(written(run)), run.read_json("evaluation.json")
    root = {**evaluation, "record": run.read_json("run.json")}
    assert len(page.figures) > 40
    for key, value in page.figures:
        assert value == at(root, key), key
    shown = {key for key, _ in page.figures}
    for name in ("recovered", "recovered_by_augmentation", "fidelity", "rows"):
        assert set(leaves(evaluation[name], name)) - shown <= {
            f"{name}.{metric}.{part}" for metric in evaluation["recovered"] for part in ("value", "low", "high")
        }
    for role in evaluation["metrics"]:
        root_key = "metrics" if role in ("ensemble", "teacher_mean", "student") else "replica_means"
        main = "rmse" if which == "numbers" else "accuracy"
        assert f"{root_key}.{role}.{main}" in shown


def test_text_of_the_user_is_shown_and_not_run(classes: RunDir) -> None:
    export(classes, classes.read_json("evaluation.json")["metrics"]["student"])
    try:
        text = written(classes)
    finally:
        classes.remove("export")
    page = Page(text)
    assert not {"script", "em", "u", "b"} & {tag for tag, _ in page.tags}
    for one in (
        SCRIPT,
        "$x_1$ & <b>",
        "<i>x0</i>",
        "<em>id</em>",
        "one value & no more",
        "<b>host</b>",
        "<b>CPU</b>",
    ):
        assert one in page.text


@pytest.mark.parametrize("which", ["classes", "numbers"])
def test_the_page_asks_for_nothing_beside_itself(which: str, request: pytest.FixtureRequest) -> None:
    text = written(request.getfixturevalue(which))
    page = Page(text)
    policies = [attrs.get("content") for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            link = attrs.get(name)
            assert link is None or link.startswith(("#", "data:")), (tag, link)
    assert "@import" not in text
    assert len(text) < 1_000_000


@pytest.mark.parametrize("which", ["classes", "numbers"])
def test_ids_are_unique_and_all_references_within_the_page_lead_somewhere(
    which: str, request: pytest.FixtureRequest
) -> None:
    text = written(request.getfixturevalue(which))
    page = Page(text)
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = {attrs[name] for _, attrs in page.tags for name in ("href", "xlink:href") if name in attrs}
    assert {str(link) for link in links if str(link).startswith("#")} <= {f"#{one}" for one in ids}


def test_the_same_run_gives_the_same_bytes(classes: RunDir) -> None:
    assert written(classes) == written(classes)


def test_colours_are_the_pages_own_so_that_they_suit_light_and_dark(classes: RunDir) -> None:
    pictures = written(classes).partition("<body>")[2]
    assert "fill: var(--student)" in pictures
    assert "#0101" not in pictures
    assert "DejaVu" not in pictures


def test_an_export_adds_its_variants_the_speed_up_and_its_latencies(classes: RunDir) -> None:
    before = Page(written(classes))
    metrics = classes.read_json("evaluation.json")["metrics"]["baseline"]
    export(classes, metrics)
    try:
        after = Page(written(classes))
    finally:
        classes.remove("export")
    assert "faster than the ensemble" not in before.text
    assert "40× faster than the ensemble" in after.text
    assert f"exported {SCRIPT} (int8 static) recommended" in after.text
    assert ("bundle.variants.0.metrics.accuracy", metrics["accuracy"]) in after.figures
    assert ("latency.models.ensemble_loop.threads.1.1.p50", 4e-4) in after.figures


def test_a_run_without_an_edge_says_so_with_the_differences(classes: RunDir) -> None:
    run, page = classes, Page(written(classes))
    assert run.read_json("evaluation.json")["recovered"]["accuracy"]["value"] is None
    assert "No edge to recover in accuracy the ensemble leads the baseline by" in page.text
    assert {"recovered.accuracy.edge.value", "recovered.accuracy.gain.low"} <= {key for key, _ in page.figures}


def test_of_many_classes_the_pairs_most_often_confused_are_listed(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=classification(*(f"<kind> {c}" for c in range(25))), rows=250)
    page = Page(written(run))
    assert "of 25 classes, the 20 pairs most often confused" in page.text
    assert not [attrs for tag, attrs in page.tags if tag == "table" and attrs.get("class") == "heat"]


def test_many_rows_of_a_regression_stay_a_small_page(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=REGRESSION, rows=20_000)
    assert len(written(run)) < 1_000_000


def test_members_that_were_not_trained_here_have_no_losses_to_show(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=TWO)
    assert "Teachers: loss of all 3" in Page(written(run)).text
    for number, summary in enumerate([{"columns": None}, {"metrics": {"accuracy": 0.5}, "columns": None}]):
        path = f"teachers/{number:04d}/teacher.json"
        run.write_json(path, run.read_json(path) | {"summary": summary})
    assert "Teachers: loss of all 1" in Page(written(run)).text


def test_a_run_without_a_control_or_a_parameter_count_is_shown_by_what_it_has(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=TWO)
    evaluation = run.read_json("evaluation.json")
    evaluation["parameters"] |= {"teacher": None, "ensemble": None, "compression": None}
    del evaluation["metrics"]["augmented_control"], evaluation["replica_means"]["augmented_control"]
    record = run.write_json("evaluation.json", evaluation | {"recovered_by_augmentation": None})
    run.remove("evaluation.manifest.json")
    run.commit("evaluation.manifest.json", Manifest(fingerprint="e", files=[record], summary={}))
    run.remove("run.json")
    page = Page(written(run))
    assert "size of the student" in page.text
    assert "smaller than the ensemble" not in page.text
    assert "augmented control, mean of" not in page.text


def test_the_manifest_names_the_page_and_the_fingerprint(classes: RunDir) -> None:
    text = written(classes)
    manifest = classes.finished(report.MANIFEST, "print")
    assert manifest is not None
    assert classes.read_checked(manifest.files[0]).decode() == text


def test_a_run_without_an_evaluation_has_no_page(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=TWO)
    run.remove("evaluation.manifest.json")
    with pytest.raises(ManifestError, match="has no finished evaluation; finish it with `kd-ray run` first"):
        written(run)
    with pytest.raises(ManifestError, match="has no finished evaluation"):
        report.compare([run])


def test_runs_of_the_same_data_are_compared_figure_by_figure_with_what_differs(classes: RunDir, tmp_path: Path) -> None:
    other = made_run(tmp_path, name="other", task=TWO, student={"model": {"hidden": [16]}, "replicas": 2})
    page = Page(report.compare([classes, other]))
    runs = [{**run.read_json("evaluation.json"), "record": run.read_json("run.json")} for run in (classes, other)]
    for key, value in page.figures:
        assert value == at({"runs": runs}, key), key
    shown = {key for key, _ in page.figures}
    assert {"runs.0.metrics.student.accuracy", "runs.1.metrics.student.nll", "runs.1.bytes.student"} <= shown
    assert "All runs have the same data and split" in page.text
    assert "student.model.hidden [4] [16]" in page.text
    assert "teachers.count" not in page.text


def test_runs_of_different_data_are_compared_with_a_warning_and_no_best(classes: RunDir, numbers: RunDir) -> None:
    page = Page(report.compare([classes, numbers]))
    assert "do not all have the same data and split" in page.text
    assert not [attrs for _, attrs in page.tags if attrs.get("class") == "best"]
    assert ("runs.1.metrics.student.accuracy", None) in page.figures
