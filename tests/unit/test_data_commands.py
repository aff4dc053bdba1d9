"""`kd-ray init` and `kd-ray check` as a person uses them; neither starts Ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = "age,city,churned\n" + "".join(f"{20 + i % 50},{'xyz'[i % 3]},{'yn'[i % 4 == 0]}\n" for i in range(120))


def kd_ray(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kd_ray.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("with a space")
    (here / "rows.csv").write_text(ROWS)
    done = kd_ray(here, "init", "rows.csv", "--target", "churned")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "config.yaml: written; next:  kd-ray check config.yaml\n"
    return here


def test_what_init_writes_check_finds_well(folder: Path) -> None:
    done = kd_ray(folder, "check", "config.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("source       rows.csv: 120 rows", "splits       train 86, valid 10, test 24"):
        assert line in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "rows.csv"]


def test_check_prints_json_that_says_the_same(folder: Path) -> None:
    done = kd_ray(folder, "check", "config.yaml", "--json", "--set", "teachers.count=3")
    found = json.loads(done.stdout)
    assert found["rows"] == {"train": 86, "valid": 10, "test": 24}
    assert found["teachers"] == {"mlp": 3}
    assert found["classes"]["n"] == {"train": 21, "valid": 3, "test": 6}


def test_init_leaves_a_file_that_is_there_alone(folder: Path) -> None:
    before = (folder / "config.yaml").read_text()
    done = kd_ray(folder, "init", "rows.csv", "--target", "city")
    assert done.returncode == 2
    assert done.stderr == (
        "kd-ray: --out: must be a file that is not there yet; config.yaml is: choose another, or delete it\n"
    )
    assert (folder / "config.yaml").read_text() == before


def test_init_says_that_the_target_is_not_there(folder: Path) -> None:
    done = kd_ray(folder, "init", "rows.csv", "--target", "churn", "--out", "other.yaml")
    assert done.returncode == 2
    assert "there is no 'churn'; did you mean 'churned'?" in done.stderr
    assert not (folder / "other.yaml").exists()


def test_init_says_that_it_cannot_write(folder: Path) -> None:
    done = kd_ray(folder, "init", "rows.csv", "--target", "churned", "--out", "nowhere/other.yaml")
    assert done.returncode == 2
    assert done.stderr == "kd-ray: --out: nowhere/other.yaml cannot be written: No such file or directory\n"


def test_check_prints_every_mistake_a_line_each_and_run_refuses_with_the_same(folder: Path) -> None:
    (folder / "bad.csv").write_text(
        ROWS.replace("20,x,n", "20,x,n,1", 1).replace("21,y,y", "21,,maybe", 1) + "inf,7,y\n"
    )
    source = ("--set", "data.source=bad.csv")
    checked = kd_ray(folder, "check", "config.yaml", *source)
    assert (checked.returncode, checked.stdout) == (2, "")
    lines = checked.stderr.splitlines()
    assert all(line.startswith("kd-ray: ") for line in lines)
    for says in ("must have 3 cells as the header has; it has 4", "must hold finite numbers", "'maybe' of 3 classes"):
        assert sum(says in line for line in lines) >= 1, lines
    ran = kd_ray(folder, "run", "config.yaml", *source, "--storage", str(folder / "out"))
    assert ran.returncode == 2
    assert [line for line in ran.stderr.splitlines() if line.startswith("kd-ray: ")] == lines
    assert not (folder / "out/data/data").exists()


def test_check_finds_the_mistakes_in_the_data_and_in_the_teachers_at_once(folder: Path) -> None:
    (folder / "teachers.yaml").write_text(
        """
data: {source: rows.csv, columns: {target: churned}, task: classification}
teachers:
  weights: greedy
  groups:
  - {kind: sklearn, estimator: sklearn.svm.LinearSVC}
  - {kind: sklearn, estimator: sklearn.ensemble.RandomForest}
  - {kind: saved, paths: [nowhere.safetensors]}
  - {kind: torch, estimator: torch.nn.Linear, parameters: {in_features: 7, out_features: 2}}
"""
    )
    checked = kd_ray(folder, "check", "teachers.yaml")
    assert (checked.returncode, checked.stdout) == (2, "")
    says = [
        "teachers.groups: sklearn.svm.LinearSVC: must have predict_proba",
        "sklearn.ensemble has no 'RandomForest'",
        "teachers.groups: torch: torch.nn.Linear must turn 3 rows of",
        "teachers.groups: saved: nowhere.safetensors: cannot be read",
        "teachers.weights: greedy needs validation rows",
    ]
    for line, part in zip(checked.stderr.splitlines(), says, strict=True):
        assert part in line
    checked = kd_ray(folder, "check", "teachers.yaml", "--set", "data.columns.target=churn")
    assert "there is no 'churn'" in checked.stderr
    assert "must have predict_proba" in checked.stderr


def test_class_weights_are_refused_where_the_target_is_a_number_to_predict(folder: Path) -> None:
    (folder / "prices.csv").write_text("x,price\n" + "\n".join(f"{i % 7},{i}.5" for i in range(50)) + "\n")
    (folder / "prices.yaml").write_text(
        "data: {source: prices.csv, columns: {target: price}}\nstudent: {class_weights: balanced}\n"
    )
    for command in ("check", "run"):
        done = kd_ray(folder, command, "prices.yaml")
        assert done.returncode == 2
        assert "student.class_weights: must be none for a regression; 'price' is taken for numbers" in done.stderr
