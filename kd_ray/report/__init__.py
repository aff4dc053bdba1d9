"""Stage 7: one HTML page of a run that needs nothing beside itself, and one that compares several runs.

Every figure on a page has the key and the exact value that it has in evaluation.json beside the digits shown.
"""

from typing import Any

from kd_ray.config import Config
from kd_ray.progress import Report
from kd_ray.rundir import Manifest, RunDir
from kd_ray.session import Session

FILE = "report.html"
MANIFEST = "report.manifest.json"


def write(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Write report.html. Raises ManifestError where the run is not finished."""
    # Here, since matplotlib takes half a second to import.
    from kd_ray.report.page import of_run
    from kd_ray.report.sources import Sources

    run.remove(MANIFEST)
    report(0, 2, "test rows")
    sources = Sources.of(config, run)
    report(1, 2, "figures")
    record = run.write_bytes(FILE, of_run(sources).encode())
    summary = {"bytes": record.bytes}
    run.commit(MANIFEST, Manifest(fingerprint=fingerprint, files=[record], summary=summary))
    report(2, 2, FILE)
    return summary


def compare(runs: list[RunDir]) -> str:
    """Return a page with finished runs side by side. Raises ManifestError where one is not finished."""
    from kd_ray.report.comparison import of_runs

    return of_runs(runs)
