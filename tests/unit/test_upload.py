"""What travels with a job, and what stays."""

import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from kd_ray import Config, upload
from kd_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
USERS = {"data": {"source": "churn.tables:rows", "columns": {"target": "y"}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them: code, results, data, an environment, a secret."""
    here = tmp_path / "my work"
    for name in (
        "churn/tables.py",
        "helpers.py",
        "rows.parquet",
        ".env",
        ".git/config.py",
        "venv/pyvenv.cfg",
        "venv/lib/x.py",
        "runs/a/run.json",
        "runs/a/config.yaml",
        "runs/a/code.py",
        "churn/__pycache__/tables.cpython-311.pyc",
        "notes/levels.json",
    ):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    return here


def packed(folder: Path, values: dict | None = None, **options: object) -> list[str]:
    archive = folder.parent / "job.zip"
    wanted = {"include": [], "package": False, **options}
    names = upload.pack(archive, Config.of(values or {}), folder, **wanted)  # type: ignore[arg-type]
    with zipfile.ZipFile(archive) as made:
        assert sorted(made.namelist()) == sorted(names)
    return names


def test_a_config_that_needs_nothing_travels_alone(folder: Path) -> None:
    assert packed(folder) == ["config.yaml"]


def test_code_that_the_config_names_goes_along_and_neither_results_nor_data_nor_secrets(folder: Path) -> None:
    assert packed(folder, USERS) == ["config.yaml", "churn/tables.py", "helpers.py"]


def test_code_that_is_installed_does_not_travel(folder: Path) -> None:
    assert packed(folder, {"data": {"source": "elsewhere.tables:rows", "columns": {"target": "y"}}}) == ["config.yaml"]


def test_what_is_included_goes_along_and_nothing_from_outside(folder: Path) -> None:
    assert packed(folder, USERS, include=[Path("notes")])[-1] == "notes/levels.json"
    for outside in ("..", "/etc/hostname", "no-such-file"):
        with pytest.raises(ConfigError, match="--include: must be a file or folder in"):
            packed(folder, include=[Path(outside)])


def test_the_config_that_travels_is_the_whole_one(folder: Path) -> None:
    packed(folder, {"teachers": {"count": 7}})
    with zipfile.ZipFile(folder.parent / "job.zip") as made:
        (folder / "read.yaml").write_bytes(made.read("config.yaml"))
    assert Config.from_yaml(folder / "read.yaml") == Config.of({"teachers": {"count": 7}})


def test_the_same_content_is_the_same_archive_whenever_it_was_written(folder: Path) -> None:
    packed(folder, USERS)
    before = (folder.parent / "job.zip").read_bytes()
    (folder / "helpers.py").write_text("x = 1\n")
    packed(folder, USERS)
    assert (folder.parent / "job.zip").read_bytes() == before


def test_kd_ray_goes_along_where_it_is_wanted_with_its_pages(folder: Path) -> None:
    names = packed(folder, package=True)
    assert {"kd_ray/__init__.py", "kd_ray/report/page.html", "kd_ray/teachers/actor.py"} <= set(names)
    assert not [name for name in names if name.endswith(".pyc")]
    assert (folder.parent / "job.zip").stat().st_size < 2e6


def test_too_much_is_refused_before_it_is_packed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "LIMIT_FILES", 1)
    with pytest.raises(ConfigError, match=r"at most 1 files .* these are 2 of 0\.0 MiB: submit from a folder"):
        packed(folder, USERS)
    assert not (folder.parent / "job.zip").exists()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"data": {"source": "rows.csv", "columns": {"target": "y"}}}, "data.source: .* got 'rows.csv'"),
        ({"data": {"unlabelled": "more/*.csv"}}, r"data.unlabelled: .* got 'more/\*.csv'"),
        ({"teachers": {"groups": [{"kind": "saved", "paths": ["/a", "b"]}]}}, r"teachers.groups.0.paths.1: .* got 'b'"),
    ],
)
def test_data_by_paths_that_mean_something_here_alone_is_refused(values: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        upload.check_named_files(Config.of(values))


@pytest.mark.parametrize(
    "source", ["make_classification", "sklearn:iris", "/data/rows.csv", "s3://b/*.pq", "mine:rows"]
)
def test_what_every_node_can_find_is_taken(source: str) -> None:
    upload.check_named_files(Config.of({"data": {"source": source, "columns": {"target": "y"}}}))


def test_rays_own_client_sends_little_of_a_checkout_and_no_results(tmp_path: Path) -> None:
    """`.rayignore`, as Ray reads it, over a checkout in which there are results and an environment."""
    checkout = tmp_path / "checkout"
    for name in (".gitignore", ".rayignore", "pyproject.toml", "jobs/run_pipeline.py", "kd_ray/cli/__init__.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    for name in (
        "runs/a/student/model.safetensors",
        ".venv/bin/python",
        ".git/HEAD",
        "kd_ray/__pycache__/x.pyc",
        "x.pq",
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"0" * 1000)
    archive = tmp_path / "sent.zip"
    create_package(str(checkout), archive, include_gitignore=True, excludes=[])
    sent = {name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")}
    assert sent == {
        ".gitignore",
        ".rayignore",
        "pyproject.toml",
        "jobs/run_pipeline.py",
        "kd_ray/cli/__init__.py",
        "x.pq",
    }
    whole = tmp_path / "whole.zip"
    create_package(str(ROOT), whole, include_gitignore=True, excludes=[])
    assert whole.stat().st_size < 2e6
    tops = {name.split("/")[0] for name in zipfile.ZipFile(whole).namelist()}
    assert not tops & {"runs", ".venv", ".git", "tests", ".pytest_cache", ".hypothesis"}
