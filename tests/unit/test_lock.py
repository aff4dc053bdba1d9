"""One writer: who has the run, who may take it over, and what becomes of one that was taken over."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kd_ray import lock
from kd_ray.commits import to_json
from kd_ray.errors import RunBusyError
from kd_ray.lock import Owner
from kd_ray.rundir import Manifest, RunDir

HOLDER = (
    "import sys; from kd_ray.rundir import RunDir\n"
    "with RunDir.at(sys.argv[1], 'trial').writing():\n    print('held', flush=True); sys.stdin.read()"
)
RACER = (
    "import sys; from kd_ray.errors import RunBusyError; from kd_ray.rundir import RunDir\n"
    "run = RunDir.at(sys.argv[1], 'trial')\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "try:\n    with run.writing():\n        print('owner', flush=True); sys.stdin.readline()\n"
    "except RunBusyError as error:\n    print(error, flush=True)\n"
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.at(str(tmp_path), "trial")


@pytest.fixture
def holder(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run."""
    command = [sys.executable, "-c", HOLDER, run.storage]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        try:
            yield other
        finally:
            other.kill()


def put_owner(run: RunDir, epoch: int = 1, **changes: object) -> Owner:
    """Write the record of an owner on another machine, or of one that differs in `changes`."""
    owner = dataclasses.replace(Owner.of_this_process(), host="far", machine="far/1", **changes)  # type: ignore[arg-type]
    assert run.create(f".writer/{epoch:010d}.json", to_json(dataclasses.asdict(owner)))
    return owner


def manifest(number: int) -> Manifest:
    return Manifest(fingerprint="f", files=[], summary={"n": number})


def test_a_second_writer_is_told_who_has_the_run_and_since_when(run: RunDir, holder: subprocess.Popen[str]) -> None:
    says = rf"trial: is being written by process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\dT\S+; wait for it"
    with pytest.raises(RunBusyError, match=says), run.writing():
        pass
    owner = lock.owner_of(run)
    assert owner is not None
    assert owner.pid == holder.pid


def test_an_owner_that_was_killed_is_taken_over_at_once(run: RunDir, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)  # and not waited for: the process is a zombie
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    told: list[str] = []
    with run.writing(told.append):
        assert lock.owner_of(run) == lock.last(run)[1]
    assert told == []


def test_a_process_that_has_the_number_of_a_dead_owner_is_not_the_owner(run: RunDir) -> None:
    me = Owner.of_this_process()
    assert not me.is_gone
    assert dataclasses.replace(me, started=me.started - 1).is_gone
    assert not dataclasses.replace(me, started=me.started - 1, machine="far/1").is_gone


def test_the_run_is_free_when_its_owner_is_done_and_nothing_but_one_record_is_left(run: RunDir) -> None:
    for _ in range(3):
        with run.writing():
            pass
    assert lock.owner_of(run) is None
    assert list(run.sizes(".writer")) == [".writer/0000000003.json"]


def test_an_owner_far_away_that_beats_is_left_alone(run: RunDir) -> None:
    put_owner(run)
    with pytest.raises(RunBusyError, match=r"is being written by process \d+ on far"), run.writing():
        pass


def test_an_owner_that_was_silent_and_beats_while_it_is_watched_keeps_the_run(run: RunDir) -> None:
    put_owner(run, since="2020-01-01T00:00:00+00:00", lease_seconds=20.0)
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        run.write_bytes(".writer/0000000001.beat", b"1 0\n")  # by a clock of 1970: only that it changed counts

    with pytest.raises(RunBusyError), run.writing(tell):
        pass
    assert "has been silent for" in told[0]
    assert "waiting 20 s for a sign of it" in told[0]


def test_an_owner_far_away_that_stays_silent_for_a_lease_is_taken_over_and_may_not_commit(run: RunDir) -> None:
    put_owner(run, since="2020-01-01T00:00:00+00:00", lease_seconds=0.3)
    with run.writing() as ours:
        ours.commit("data/manifest.json", manifest(1))
        theirs = dataclasses.replace(run, epoch=1)
        with pytest.raises(RunBusyError, match=rf"was taken over by process {os.getpid()} on .* commits nothing more"):
            theirs.commit("student/manifest.json", manifest(2))
    assert not run.exists("student/manifest.json")


def test_a_stopped_owner_is_taken_over_and_finds_out_when_it_goes_on(run: RunDir, tmp_path: Path) -> None:
    code = (
        "import sys; from kd_ray.errors import RunBusyError; from kd_ray.rundir import Manifest, RunDir\n"
        "with RunDir.at(sys.argv[1], 'trial').writing() as run:\n"
        "    print('held', flush=True); sys.stdin.readline()\n"
        "    try:\n        run.commit('late/manifest.json', Manifest(fingerprint='f', files=[], summary={}))\n"
        "    except RunBusyError as error:\n        print(error, flush=True)\n"
    )
    command = [sys.executable, "-c", code, run.storage]
    env = os.environ | {lock.LEASE_VARIABLE: "0.5"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "held\n"
            os.kill(other.pid, signal.SIGSTOP)
            while lock.silence(run) < 0.5:
                time.sleep(0.05)
            with run.writing() as ours:
                ours.commit("ours/manifest.json", manifest(1))
                os.kill(other.pid, signal.SIGCONT)
                other.stdin.write("go on\n")
                other.stdin.flush()
                assert f"was taken over by process {os.getpid()}" in other.stdout.readline()
        finally:
            other.kill()
    assert not run.exists("late/manifest.json")


def test_of_several_that_start_at_once_one_gets_the_run_and_the_others_name_it(run: RunDir) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", RACER, run.storage], **pipes) for _ in range(5)]  # type: ignore[call-overload]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.write("\n")
            racer.stdin.flush()
        said = [racer.stdout.readline() for racer in racers]
        assert said.count("owner\n") == 1
        owner = racers[said.index("owner\n")].pid
        assert sum(f"is being written by process {owner} on" in line for line in said) == len(racers) - 1
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def test_threads_of_one_process_that_race_do_not_both_get_the_run(run: RunDir) -> None:
    inside, most, got = 0, 0, 0
    guard = threading.Lock()

    def once() -> None:
        nonlocal inside, most, got
        try:
            with run.writing():
                with guard:
                    inside += 1
                    got += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1
        except RunBusyError:
            pass

    threads = [threading.Thread(target=once) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got >= 1
    assert most == 1


def test_a_damaged_record_of_an_owner_does_not_lock_the_run_for_ever(run: RunDir) -> None:
    run.write_bytes(".writer/0000000007.json", b"{")
    with run.writing() as ours:
        assert ours.epoch == 8


def test_the_owner_beats(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lock.LEASE_VARIABLE, "0.3")
    beaten = threading.Event()
    before = RunDir.write_bytes

    def write(self: RunDir, relative: str, content: bytes, **more: int) -> object:
        if relative.endswith(".beat"):
            beaten.set()
        return before(self, relative, content, **more)

    monkeypatch.setattr(RunDir, "write_bytes", write)
    with run.writing():
        assert beaten.wait(20)
    assert not any(path.endswith(".beat") for path in run.sizes(".writer"))
