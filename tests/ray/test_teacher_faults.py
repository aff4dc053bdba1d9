"""Teachers' actors that hang or die, and members that fail by themselves: replaced, counted, named."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from faulty_members import Sometimes

from kd_ray import Config, teachers
from kd_ray.ensemble import trained
from kd_ray.errors import DivergedError, TeacherFailedError
from kd_ray.groups import members
from kd_ray.rundir import RunDir
from kd_ray.session import Session

pytestmark = pytest.mark.ray

COUNT = 6


Labelled = tuple[Config, RunDir]


@pytest.fixture
def run(labelled: Labelled, tmp_path: Path) -> RunDir:
    """A run with data, and nothing else."""
    shutil.copytree(labelled[1].path("data"), tmp_path / "small/data")
    return RunDir.at(str(tmp_path), "small")


def config(labelled: Labelled, **changes: Any) -> Config:
    values = labelled[0].model_dump()
    values["teachers"] |= changes
    return Config.of(values)


@pytest.fixture
def train(labelled: Labelled, run: RunDir) -> Callable[..., dict[str, Any]]:
    def do(**changes: Any) -> dict[str, Any]:
        with Session() as session:
            return teachers.train(config(labelled, **changes), run, session, lambda done, total, note: None, "t")

    return do


def content(run: RunDir) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in Path(run.path("teachers")).glob("*/model.safetensors")}


SOMETIMES = {"groups": [{"kind": "torch", "count": COUNT, "estimator": "faulty_members.Sometimes"}], "epochs": 2}


def diverging(labelled: Labelled) -> list[int]:
    """Made here as an actor makes them: a module of NaNs diverges."""
    found = []
    for member in members(config(labelled, **SOMETIMES).teachers):
        torch.manual_seed(int(member.streams(labelled[0].seed).weights.integers(2**63)))
        if Sometimes(8, 3)[0].weight.isnan().any():
            found.append(member.number)
    return found


def test_failures_within_the_allowance_leave_an_ensemble_of_the_rest(
    train: Callable[..., Any], labelled: Labelled, run: RunDir
) -> None:
    lost = diverging(labelled)
    assert 0 < len(lost) < COUNT
    summary = train(**SOMETIMES, allow_failures=len(lost))
    assert [entry["seed"] for entry in summary["failed"]] == lost
    assert all("diverged in epoch 1" in entry["reason"] for entry in summary["failed"])
    assert (summary["members"], summary["trained"]) == (COUNT - len(lost), COUNT - len(lost))
    left = [number for number in range(COUNT) if number not in lost]
    assert [member.number for member in trained(run, config(labelled, **SOMETIMES).teachers)] == left
    manifest = run.manifest("teachers/manifest.json")
    assert manifest
    assert [record.path for record in manifest.files] == [f"teachers/{n:04d}/model.safetensors" for n in left]


def test_failures_beyond_the_allowance_are_all_named_and_what_is_finished_is_kept(
    train: Callable[..., Any], labelled: Labelled, run: RunDir
) -> None:
    lost = diverging(labelled)
    with pytest.raises(DivergedError) as raised:
        train(**SOMETIMES, allow_failures=len(lost) - 1, resources={"cpus": 0.5, "actors": COUNT})
    for number in lost:
        assert f"teacher {number} (torch): diverged in epoch 1" in str(raised.value)
    assert f"{len(lost)} of {COUNT} teachers failed, teachers.allow_failures is {len(lost) - 1}" in str(raised.value)
    assert not run.exists("teachers/manifest.json")
    kept = {path.parent.name for path in Path(run.path("teachers")).glob("*/teacher.json")}
    assert kept == {f"{number:04d}" for number in range(COUNT) if number not in lost}


def test_a_member_that_takes_too_much_memory_alone_says_so(train: Callable[..., Any]) -> None:
    with pytest.raises(TeacherFailedError, match=r"teacher 0 \(torch\): training it alone takes more memory .* lower"):
        train(groups=[{"kind": "torch", "estimator": "faulty_members.Greedy"}])


def test_a_large_table_that_a_worker_reads_makes_the_same_members(
    train: Callable[..., Any], labelled: Labelled, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "LARGE_TABLE", 0)
    train()
    assert content(run) == content(labelled[1])


def test_an_actor_that_hangs_is_replaced_after_the_deadline(
    train: Callable[..., Any], labelled: Labelled, run: RunDir, tmp_path: Path
) -> None:
    stopped: list[psutil.Process] = []

    def stop_one() -> None:
        deadline = time.monotonic() + 120
        while not stopped and time.monotonic() < deadline:
            for process in psutil.process_iter(["cmdline"]):
                if "TeacherActor.train" in " ".join(process.info["cmdline"] or []):
                    process.suspend()
                    stopped.append(process)
                    return
            time.sleep(0.005)

    long = {"epochs": 400, "resources": {"cpus": 1, "actors": 2}}
    train(**long)
    quiet = content(run)
    run.remove("teachers")
    stopper = threading.Thread(target=stop_one)
    stopper.start()
    train(**long, deadline_seconds=10.0)
    stopper.join()
    assert stopped
    stopped[0].wait(60)
    assert content(run) == quiet


LATE = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
from ray.cluster_utils import Cluster
from kd_ray import Config, data, teachers
from kd_ray.fingerprints import fingerprints
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.teachers.driver import Driver

node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
config = Config.of({
    "name": "late", "storage": sys.argv[1],
    "data": {"options": {"n_samples": 600}},
    "teachers": {
        "count": 12, "pack_size": 1, "epochs": 2, "model": {"hidden": [16], "dropout": []},
        "resources": {"cpus": 0.5, "gpus": 0.5},
    },
})
run = RunDir.at(config.storage, config.name)
prints = fingerprints(config)
nodes, joined, greet, give_out = [], [], Driver._greet, Driver._give_out

def watched(self, ready, actor):
    greet(self, ready, actor)
    nodes.append(self._facts[actor]["node"])

def patient(self):
    if not joined or len(nodes) == 4:
        give_out(self)  # else what is left waits for the new node

def tell(done, total, note):
    if not joined and done >= 2:
        joined.append(cluster.add_node(**node))

Driver._greet, Driver._give_out = watched, patient

with Session(cluster.address) as session:
    data.prepare(config, run, session, lambda *_: None, prints["data"])
    summary = teachers.train(config, run, session, tell, prints["teachers"])
    devices = {run.manifest(f"teachers/{n:04d}/teacher.json").summary["device"] for n in range(12)}
print(summary["trained"], len(nodes), len(set(nodes)), devices)
cluster.shutdown()
"""


def test_a_node_that_joins_late_is_given_work_and_gpus_in_name_only_are_no_harm(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "12 4 2 {'cpu'}"
