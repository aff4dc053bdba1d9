"""An object store that fails: killed and started again in mid-run, one request in a hundred gone wrong, or slow."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos import servers
from tests.chaos.harness import Place, Reference, Row, Started, complaints, kd_ray, knows_clean
from tests.chaos.proxy import Policy, proxied

DOWN_SECONDS = (0.5, 6.0)
FAULTS: dict[str, tuple[float, tuple[str, ...]]] = {
    "1 % of requests fail (500, 503, reset, reply lost or cut)": (0.01, ("500", "503", "reset", "lost", "cut")),
    "5 % of requests answered 503 SlowDown": (0.05, ("503",)),
    "1 % of requests wait 5 s": (0.01, ("slow",)),
}


def store(place: Place) -> list[Row]:
    """On ministack and moto; what either has is compared with the local reference."""
    rows: list[Row] = []
    there = [kind for kind in servers.PROGRAMS if servers.is_there(kind)]
    for kind in there:
        with servers.serving(kind, place.new("server")) as server:
            for fault, (share, actions) in FAULTS.items():
                rows.append(_failing(place, server, fault, share, actions))
            if kind == "ministack":
                rows.append(_killed(place, server))
                rows.append(_down(place, server))
    missing = sorted(set(servers.PROGRAMS) - set(there))
    if missing:
        rows.append(Row("store", f"{', '.join(missing)}", notes="is not installed: make chaos installs it"))
    return rows


def _policy(draw: random.Random, share: float, actions: tuple[str, ...]) -> Policy:
    lock = threading.Lock()

    def policy(method: str, path: str) -> str:
        with lock:
            return draw.choice(actions) if draw.random() < share else "pass"

    return policy


def _failing(place: Place, server: servers.Server, fault: str, share: float, actions: tuple[str, ...]) -> Row:
    row, did = Row("store", f"{server.kind}: {fault}"), 0
    for i in range(place.times(5)):
        policy = _policy(place.random(server.kind, fault, i), share, actions)
        with proxied(server.port, policy) as proxy, place.scratch("store") as folder:
            problems = _whole(place, server, proxy.port, folder, lambda started: None)
            injected = sum(n for action, n in proxy.did.items() if action != "pass")
            did += injected
            row.add(f"run {i}, {injected} of {proxy.did.total()} requests", problems)
    row.notes = f"{did} faults injected"
    return row


def _killed(place: Place, server: servers.Server) -> Row:
    row, downs = Row("store", f"{server.kind}: server killed and started again in mid-run"), []
    count = place.times(5)
    for i in range(count):
        draw = place.random("server killed", i)
        moment, down = (i + draw.random()) / count * place.reference.seconds, draw.uniform(*DOWN_SECONDS)

        def kill(started: Started, moment: float = moment, down: float = down) -> None:
            if started.wait_until(started.begun + moment):
                server.kill()
                time.sleep(down)
                server.start()
                downs.append(down)

        with place.scratch("store") as folder:
            row.add(f"after {moment:.1f} s for {down:.1f} s", _whole(place, server, server.port, folder, kill))
    row.notes = f"down for {sum(downs) / max(1, len(downs)):.1f} s in the mean"
    return row


def _down(place: Place, server: servers.Server) -> Row:
    """A store that does not come back: an end in one line, within a bound, and the run is taken up later."""
    row, begun = Row("store", f"{server.kind}: server gone for good, then back"), 0.0
    for _ in range(place.times(1)):
        with place.scratch("store") as folder:
            storage = _storage(folder)
            started = Started.run(place.reference.config, storage, **_env(server.port))
            started.wait_until(0, "teachers: started")
            server.kill()
            begun = time.monotonic()
            code = started.wait(400)
            took = time.monotonic() - begun
            server.start()
            said = started.said()
            problems = complaints(said) + _secret(folder, said)
            problems += [] if code == 2 else [f"ended with {code}: {said[-300:]!r}"]
            problems += _resume(place, server, server.port, folder, storage)
            row.add("from the teachers on", problems)
            row.notes = f"gave up after {took:.0f} s"
    return row


def _env(port: int) -> dict[str, str]:
    return servers.environment(port)


def _storage(folder: Path) -> str:
    return f"s3://{servers.BUCKET}/{folder.name}"


def _whole(
    place: Place, server: servers.Server, port: int, folder: Path, disturb: Callable[[Started], None]
) -> list[str]:
    """Do a whole run on the store; return what is not as in the local, undisturbed one."""
    storage = _storage(folder)
    started = Started.run(place.reference.config, storage, **_env(port))
    disturb(started)
    code = started.wait()
    said = started.said()
    problems = complaints(said) + _secret(folder, said)
    if code:
        problems.append(f"ended with {code}: {said[-400:]!r}")
        return problems + _resume(place, server, port, folder, storage)
    return problems + started.left()[0] + _compare(place, server, folder, storage)


def _resume(place: Place, server: servers.Server, port: int, folder: Path, storage: str) -> list[str]:
    started = Started.run(place.reference.config, storage, **_env(port))
    if started.wait():
        return [f"resumed with {started.process.returncode}: {started.said()[-300:]!r}"]
    return _compare(place, server, folder, storage)


def _compare(place: Place, server: servers.Server, folder: Path, storage: str) -> list[str]:
    if knows_clean():
        kd_ray("clean", f"{storage}/default", **_env(server.port))
    run = server.mirror(f"{folder.name}/default", folder / "mirror")
    reference: Reference = place.reference
    return _secret(run, "") + reference.differences(run) + reference.stray_of(run)


def _secret(folder: Path, said: str) -> list[str]:
    """The credentials must not be in what is said, nor in any byte of the run."""
    secret = servers.SECRET.encode()
    files = [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
    return [f"{path} holds the secret" for path in files] + (["said the secret"] if servers.SECRET in said else [])
