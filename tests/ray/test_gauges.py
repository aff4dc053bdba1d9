"""What Prometheus would scrape of a run: the real endpoint of the node, over HTTP."""

import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from conftest import SMALL, merged

from kd_ray import Config, run
from kd_ray.gauges import Gauges
from kd_ray.judging import EVALUATION_MANIFEST
from kd_ray.progress import Report, Silent
from kd_ray.rundir import Manifest, RunDir
from kd_ray.session import Session

pytestmark = pytest.mark.ray
LINE = re.compile(r"^ray_(kd_ray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
WAIT_SECONDS = 60
KEPT_BY_RAY_SECONDS = 21


def scraped(run: str, wanted: set[str]) -> dict[str, float]:
    """The run's metrics, by name and metric tag, once all that are wanted are there; Ray sends them every 10 s."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until, found = time.monotonic() + WAIT_SECONDS, {}
    while time.monotonic() < until and not wanted <= set(found):
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        for name, tags, value in LINE.findall(text):
            of = dict(re.findall(r'(\w+)="([^"]*)"', tags))
            if of["run"] == run:
                found[f"{name} {of['metric']}" if "metric" in of else name] = float(value)
        time.sleep(0.5)
    return found


class Scraping(Silent):
    """Scrapes before the last stage, while the run's Ray is there."""

    def __init__(self, run: str, wanted: set[str]) -> None:
        self.run, self.wanted = run, wanted
        self.found: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        if name == "report":
            self.found = scraped(self.run, self.wanted)
        with super().stage(name) as report:
            yield report


def test_the_metrics_of_a_run_are_at_the_prometheus_endpoint(node: None, tmp_path: Path) -> None:
    export = {"int8": False, "pruning": [], "latency": False}
    counts = ("kd_ray_teachers_done", "kd_ray_rows_labelled", "kd_ray_student_epochs")
    progress = Scraping("gauged", {*counts, "kd_ray_student_loss"})
    config = Config.of(merged(SMALL, {"name": "gauged", "export": export}))
    result = run(config, storage=str(tmp_path), progress=progress)
    found = [progress.found[name] for name in counts]
    assert found == [4, result.evaluation["rows"]["transfer"], 4]
    history = pq.read_table(f"{result.path}/student/history.parquet").to_pandas()
    last = history[history["epoch"] == 4]["loss"].mean()
    assert progress.found["kd_ray_student_loss"] == pytest.approx(last, abs=1e-4)


def test_the_recovered_shares_stay_at_the_endpoint_until_the_end(node: None, tmp_path: Path) -> None:
    judged = RunDir.at(str(tmp_path), "judged")
    shares = {"accuracy": {"value": 0.95}, "nll": {"value": None}}
    record = judged.write_json("evaluation.json", {"recovered": shares})
    judged.commit(EVALUATION_MANIFEST, Manifest(fingerprint="e", files=[record], summary={}))
    with Session() as session, Gauges(Silent(), session, judged) as seen:
        session.ready()
        with seen.stage("evaluation"):
            pass
        time.sleep(KEPT_BY_RAY_SECONDS)
        assert scraped("judged", {"kd_ray_recovered accuracy"}) == {"kd_ray_recovered accuracy": 0.95}
