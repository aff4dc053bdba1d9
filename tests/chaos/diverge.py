"""Members that fail by their own fault: the run goes on without them as far as it may, and says who they were."""

import json
import re
from pathlib import Path

from tests.chaos import nursery, oracle
from tests.chaos.crashes import cluster
from tests.chaos.harness import Place, Reference, Row, complaints

MEMBERS = 12
BROKEN = "tests.chaos.broken.Diverges"


def diverge(place: Place) -> list[Row]:
    """1 to 11 of 12 members become NaN; once as many may fail, once one fewer."""
    from kd_ray.config import Config

    rows = [
        Row("diverge", "k of 12 members diverge, k may"),
        Row("diverge", "k of 12 members diverge, k - 1 may"),
    ]
    if "allow_failures" not in Config().teachers.model_dump():
        rows[0].notes = "needs teachers.allow_failures"
        return rows
    nursery.preload()
    reference = place.reference
    with cluster(place, workers=1) as address:
        for k in range(1, MEMBERS, max(1, 11 // place.times(11))):
            for row, allowed in zip(rows, (k, k - 1), strict=True):
                with place.scratch("diverge") as storage:
                    ended = _run(place, storage, address, k, allowed)
                    check = _goes_on if allowed == k else _stops
                    problems = complaints(ended.said) + check(ended, storage / "default", k, reference)
                    row.add(f"{k} of {MEMBERS}, {allowed} may", problems)
    return rows


def _run(place: Place, storage: Path, address: str, k: int, allowed: int) -> nursery.Ended:
    groups = [
        {"kind": "mlp", "count": MEMBERS - k, "model": {"hidden": [4], "dropout": []}},
        {"kind": "torch", "count": k, "estimator": BROKEN},
    ]
    path = place.config(teachers={"groups": groups, "allow_failures": allowed})

    def work() -> None:
        from kd_ray import Config, run
        from kd_ray.errors import KdRayError

        config = Config.from_yaml(path)
        try:
            run(config, storage=str(storage), address=address, progress=nursery.Until("student"))
        except KdRayError as error:
            print(f"kd-ray: {error}")
            raise SystemExit(error.exit_code) from None

    return nursery.forked(work, log=storage / "log")


def _goes_on(ended: nursery.Ended, run, k: int, reference: Reference) -> list[str]:
    if ended.code:
        return [f"ended with {ended.code}: {ended.said[-300:]!r}"]
    manifest = json.loads((run / "teachers/manifest.json").read_text())
    said = [one["seed"] for one in manifest["summary"]["failed"]]
    good = {f"teachers/{n:04}/model.safetensors" for n in range(MEMBERS - k)}
    named = {record["path"] for record in manifest["files"] if record["path"].endswith("model.safetensors")}
    found = oracle.content(run)
    problems = [] if said == list(range(MEMBERS - k, MEMBERS)) else [f"says that {said} failed"]
    problems += [] if manifest["summary"]["members"] == MEMBERS - k else [f"counts {manifest['summary']['members']}"]
    problems += [] if named == good else [f"names {sorted(named ^ good)}"]
    problems += [f"{name} differs" for name in good if found.get(name) != reference.content[name]]
    labelled = json.loads((run / "soft_targets/manifest.json").read_text())["summary"]["teachers"]
    return problems + ([] if labelled == MEMBERS - k else [f"{labelled} members labelled"])


def _stops(ended: nursery.Ended, run, k: int, reference: Reference) -> list[str]:
    if not ended.code:
        return ["went on"]
    numbers = {int(n) for n in re.findall(r"\b(\d+)\b", ended.said.rpartition("kd-ray: ")[2])}
    problems = [] if numbers & set(range(MEMBERS - k, MEMBERS)) else [f"names no member: {ended.said[-200:]!r}"]
    return problems + (["is finished"] if (run / "teachers/manifest.json").exists() else [])
