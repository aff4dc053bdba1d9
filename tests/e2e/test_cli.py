"""The command line as a person uses it: real processes, real Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e

SMALL = [
    "--set=data.options={n_samples: 500, n_features: 8, n_informative: 5, n_redundant: 1}",
    "--set=teachers={count: 3, model: {hidden: [16]}, epochs: 3}",
    "--set=student={model: {hidden: [8]}, epochs: 3, replicas: 1}",
]
SLOW_TEACHERS = "--set=teachers={count: 2, model: {hidden: [16]}, epochs: 100000}"
SLOW_LABELS = "--set=soft_targets={transfer: {kind: noise, factor: 1000}, rows_per_file: 200}"
SLOW_STUDENT = "--set=student={model: {hidden: [8]}, epochs: 100000, replicas: 1}"
SLOW_EXPORT = "--set=export.fine_tuning=2000"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kd_ray.cli", *arguments]


def kd_ray(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=200, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage with a space")


@pytest.fixture(scope="module")
def first(storage: Path) -> subprocess.CompletedProcess[str]:
    return kd_ray("run", *SMALL, "--storage", str(storage), "--name", "first")


def test_a_run_ends_with_a_table_on_standard_output_and_nothing_of_rays(
    first: subprocess.CompletedProcess[str], storage: Path
) -> None:
    assert first.returncode == 0, first.stderr
    for word in ("ensemble of 3", "mean teacher", "student", "augmented control", "baseline", "recovered, accuracy"):
        assert word in first.stdout
    assert f"files: {storage}/first" in first.stdout
    said = first.stderr.splitlines()
    stages = ("data", "ray", "teachers", "soft targets", "student", "evaluation", "export", "report", "note")
    assert said
    assert all(line.startswith(stages) for line in said), first.stderr


def test_the_second_time_is_a_look_at_the_first(
    first: subprocess.CompletedProcess[str], storage: Path, tmp_path: Path
) -> None:
    again = kd_ray("run", *SMALL, "--storage", str(storage), "--name", "first", "--json", cwd=tmp_path)
    assert again.returncode == 0
    assert again.stderr.count("finished before, kept") == 7
    assert json.loads(again.stdout) == json.loads((storage / "first/evaluation.json").read_text())


def test_running_a_written_config_again_finds_the_run_finished(
    first: subprocess.CompletedProcess[str], storage: Path
) -> None:
    again = kd_ray("run", str(storage / "first/config.yaml"))
    assert again.returncode == 0
    assert again.stderr.count("finished before, kept") == 7


def test_a_run_goes_on_where_nobody_reads_its_progress(first: subprocess.CompletedProcess[str], storage: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    again = subprocess.run(
        command("run", str(storage / "first/config.yaml"), "--json"), stdout=subprocess.PIPE, stderr=write, check=False
    )
    os.close(write)
    assert again.returncode == 0
    assert json.loads(again.stdout)["rows"] == json.loads((storage / "first/evaluation.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "teachers.count=0"], "teachers.count: must be a whole number >= 1; got 0"),
        (["--set", "teachers"], "--set: must be KEY=VALUE"),
        (["--name", "../x"], "name: must be 1 to 63 letters"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--storage", "/proc/nothing"], "/proc/nothing/default: cannot be written"),
        (["--set", "data.options.n_classes=1"], "must have at least 2 classes"),
        (["--set", "data.options.n_informative=40"], "data.options: make_classification refuses them"),
        (["--set", "data.split.test=4999"], "the train split must have"),
        (["--address", "127.0.0.1:1", *SMALL], "no Ray cluster answers at 127.0.0.1:1"),
        (["--storage", "nosuch://x"], "storage: must be a folder or a URI"),
    ],
)
def test_the_users_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    defaults = [] if "--storage" in arguments else ["--storage", str(tmp_path)]
    done = kd_ray("run", *arguments, *defaults, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_and_config_and_version_print_and_end_well() -> None:
    assert "Examples:" in kd_ray("run", "--help").stdout
    assert "teachers:" in kd_ray("config").stdout
    assert kd_ray("--version").stdout.startswith("kd-ray 0.")


@pytest.mark.parametrize(
    ("stop", "stage", "slow"),
    [
        (signal.SIGINT, "data: started", SLOW_TEACHERS),
        (signal.SIGINT, "ray: started", SLOW_TEACHERS),
        (signal.SIGINT, "teachers: 0", SLOW_TEACHERS),
        (signal.SIGINT, "soft targets: started", SLOW_LABELS),
        (signal.SIGINT, "student: epoch", SLOW_STUDENT),
        (signal.SIGINT, "export: started", SLOW_EXPORT),
        (signal.SIGTERM, "ray: started", SLOW_TEACHERS),
        (signal.SIGTERM, "teachers: 0", SLOW_TEACHERS),
    ],
)
def test_an_interrupt_ends_the_run_soon_leaves_no_process_and_says_how_to_go_on(
    tmp_path: Path, stop: signal.Signals, stage: str, slow: str
) -> None:
    arguments = [*SMALL, slow, "--storage", str(tmp_path)]
    run = subprocess.Popen(command("run", *arguments), stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stderr is not None
    family: list[psutil.Process] = []
    try:
        for line in run.stderr:
            if line.startswith(stage):
                break
        else:
            pytest.fail(f"the run ended before {stage!r}")
        time.sleep(0.5)
        family = psutil.Process(run.pid).children(recursive=True)
        begun = time.monotonic()
        os.kill(run.pid, stop)
        rest = run.stderr.read()
        assert run.wait(timeout=30) == 130, rest
        assert time.monotonic() - begun < 30
        assert "the same command takes the run up where it stopped" in rest
        assert "Traceback" not in rest
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
    finally:
        run.kill()
        for process in family:
            if process.is_running():
                process.kill()
    assert not (tmp_path / "default/report.html").exists()


def test_of_two_runs_at_once_the_second_says_who_has_the_directory_and_leaves_it_alone(tmp_path: Path) -> None:
    arguments = ["run", *SMALL, SLOW_TEACHERS, "--storage", str(tmp_path)]
    run = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stderr is not None
    try:
        assert "started" in run.stderr.readline()
        second = kd_ray(*arguments)
        assert second.returncode == 2
        assert f"{tmp_path}/default: is being written by process {run.pid} on " in second.stderr
        assert "wait for it, or use another --name" in second.stderr
        refused = kd_ray("clean", f"{tmp_path}/default")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"process {run.pid} on " in kd_ray("status", f"{tmp_path}/default").stdout
    finally:
        os.kill(run.pid, signal.SIGTERM)
        run.communicate(timeout=60)


def test_status_verify_and_clean_say_how_a_run_is_and_what_is_wrong_with_it(
    first: subprocess.CompletedProcess[str], storage: Path, tmp_path: Path
) -> None:
    shutil.copytree(storage / "first", tmp_path / "first")
    run = str(tmp_path / "first")
    stages = json.loads(kd_ray("status", run, "--json").stdout)["stages"]
    assert [stage["state"] for stage in stages] == ["finished"] * 7
    assert kd_ray("verify", run).returncode == 0
    student = tmp_path / "first/export/student.onnx"
    content = bytearray(student.read_bytes())
    content[99] ^= 1
    student.write_bytes(content)
    (tmp_path / "first/data/train/00099.parquet").write_bytes(b"left")
    assert kd_ray("clean", run).stdout == "data/train/00099.parquet\n"
    damaged = kd_ray("verify", run, "--json")
    assert damaged.returncode == 2
    assert [line.split(":")[0] for line in json.loads(damaged.stdout)["wrong"]] == [str(student)]
    said = kd_ray("verify", run, "--forget")
    assert said.returncode == 2
    assert f"kd-ray: {student}: is not what export/manifest.json says" in said.stderr
    assert "1 damaged: kd-ray run makes it anew" in said.stderr
    assert "export        missing" in kd_ray("status", run).stdout
    again = kd_ray("run", *SMALL, "--storage", str(tmp_path), "--name", "first")
    assert again.returncode == 0, again.stderr
    assert "ray: started" not in again.stderr
    assert kd_ray("verify", run).returncode == 0


def test_a_killed_run_is_taken_up_and_ends_in_the_same_student(
    first: subprocess.CompletedProcess[str], storage: Path, tmp_path: Path
) -> None:
    arguments = ["run", *SMALL, "--storage", str(tmp_path), "--name", "first"]
    run = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("soft targets: started"):
            break
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    for process in family:
        if process.is_running():
            process.kill()
    resumed = kd_ray(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "teachers: finished before, kept" in resumed.stderr
    for role in ("student", "baseline", "augmented_control"):
        file = f"first/{role}/model.safetensors"
        assert (tmp_path / file).read_bytes() == (storage / file).read_bytes()
