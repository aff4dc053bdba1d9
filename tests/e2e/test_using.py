"""The commands that use a finished run, as a person calls them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from kd_ray import interrupts
from kd_ray.cli import main
from kd_ray.rundir import RunDir

pytestmark = pytest.mark.e2e


def kd_ray(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kd_ray.cli", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    table = pa.table({f"x{d}": np.random.default_rng(d).normal(size=100) for d in range(20)})
    pa.csv.write_csv(table, tmp_path / "new rows.csv")
    return tmp_path / "new rows.csv"


def test_a_csv_is_scored_from_another_folder(made: str, rows: Path) -> None:
    done = kd_ray(rows.parent, "predict", made, rows.name, "--out", "scored.parquet", "--keep", "x3")
    assert (done.returncode, done.stdout) == (0, "scored.parquet: 100 rows\n"), done.stderr
    assert done.stderr.splitlines()[0] == "predict: started"
    scored = pq.read_table(rows.parent / "scored.parquet")
    assert scored.column_names == ["x3", "prediction", "probability_0", "probability_1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "nowhere", "new rows.csv", "--out", "o.parquet"], "nowhere: is no run directory"),
        (
            ["predict", "MADE", "nothing.csv", "--out", "o.parquet"],
            "INPUT: must name a file, folder or glob that exists",
        ),
        (["predict", "MADE", "new rows.csv", "--out", "o.csv"], "--out: must be a file that ends in .parquet"),
        (["predict", "MADE", "new rows.csv", "--out", "no/o.parquet"], "--out: must lie in a folder that exists"),
        (
            ["predict", "MADE", "new rows.csv", "--out", "o.parquet", "--variant", "x"],
            "variant: must be one of student",
        ),
        (
            ["predict", "MADE", "new rows.csv", "--out", "o.parquet", "--keep", "q"],
            "--keep: must name columns of the table",
        ),
        (["bench", "nowhere"], "nowhere: is no run directory"),
        (["report", "nowhere"], "nowhere: is no run directory"),
        (["report", "MADE", "MADE"], "--out: must name the page that compares several runs"),
    ],
)
def test_a_mistake_is_named_in_one_line_and_nothing_is_written(
    made: str,
    rows: Path,
    words: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(rows.parent)
    monkeypatch.setattr(sys, "argv", ["kd-ray", *(made if word == "MADE" else word for word in words)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(interrupts, "listen", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line != "predict: started"]
    assert len(lines) == 1
    assert lines[0].startswith("kd-ray: ")
    assert says in lines[0]
    assert [path.name for path in rows.parent.iterdir()] == [rows.name]


def test_bench_prints_what_it_wrote_and_report_takes_it_up(made: str, tmp_path: Path) -> None:
    done = kd_ray(tmp_path, "bench", made, "--brief", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == RunDir.at(*made.rsplit("/", 1)).read_json("export/latency.json")
    written = kd_ray(tmp_path, "report", made)
    assert (written.returncode, written.stdout) == (0, f"{made}/report.html\n"), written.stderr
    assert 'data-key="latency.models.student.threads.1.1.p50"' in Path(made, "report.html").read_text()
    shown = kd_ray(tmp_path, "bench", made, "--brief")
    assert "ensemble loop" in shown.stdout


def test_several_runs_are_compared_on_one_page(made: str, tmp_path: Path) -> None:
    done = kd_ray(tmp_path, "report", made, made, "--out", "compared.html")
    assert (done.returncode, done.stdout) == (0, "compared.html\n"), done.stderr
    assert "served" in (tmp_path / "compared.html").read_text()
