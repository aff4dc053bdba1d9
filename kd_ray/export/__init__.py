"""Stage 6: the student as a file that runs anywhere, smaller variants of it, and what each of them keeps.

Files: export/student.onnx and its variants, raw columns in, probabilities or a prediction out; bundle.json, which says
what they take, hold and are worth; MODEL_CARD.md; latency.json.
"""

from typing import Any

import onnx

from kd_ray import deployed, latency
from kd_ray.commits import sealed
from kd_ray.config import Config
from kd_ray.ensemble import spec_of
from kd_ray.errors import ManifestError
from kd_ray.export import card, check, compression, graph
from kd_ray.export.description import facts_of, without_variants
from kd_ray.export.training import trained_on
from kd_ray.export.worth import Judge
from kd_ray.judging import student_file
from kd_ray.models import MLP
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.session import Session
from kd_ray.tables import EXPORT_MANIFEST, Dataset
from kd_ray.tensors import read_weights

MANIFEST = EXPORT_MANIFEST
BUNDLE = f"export/{deployed.BUNDLE}"


def export(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Write the files. Raises RunError where the exported student does not say what the torch student does."""
    run.remove("export")
    made = _Export(config, run, report, fingerprint)
    made.student()
    if config.export.int8:
        made.int8()
    for sparsity in config.export.pruning:
        made.pruned(sparsity)
    return made.finish()


def bundle_of(run: RunDir) -> dict[str, Any]:
    """Return export/bundle.json as it was written. Raises ManifestError."""
    manifest = run.manifest(MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: has no finished export; finish it with `kd-ray run` first")
    return dict(run.read_named(manifest, BUNDLE))


class _Export:
    """The files of one export under way."""

    def __init__(self, config: Config, run: RunDir, report: Report, fingerprint: str) -> None:
        self.config, self.run, self.fingerprint = config, run, fingerprint
        self.report, self.steps = report, 3 + config.export.int8 + len(config.export.pruning)
        self.data = Dataset.open(run)
        self.judge = Judge.of(self.data)
        self.spec = spec_of(config.student.model, self.data)
        self.weights = read_weights(run, student_file(run), self.spec)
        self.files: list[FileRecord] = []
        self.bundle = without_variants(self.data, fingerprint, self.judge.judged_on, config.export.tolerance)

    def student(self) -> None:
        self._say("student.onnx")
        self.network = graph.network(self.spec, self.weights)
        content = self._add("student", "fp32", "student.onnx", self.network, self.spec)
        student = deployed.student_of(content, self.bundle, threads=1)
        found = check.differences(student, self.data, self.spec, self.weights)
        self.bundle["largest_difference"] = found

    def int8(self) -> None:
        """Add the better of two quantizations, by what chooses a replica."""
        self._say("int8")
        networks = {
            "int8 static": compression.static(self.network, self.judge.learned.features_ND),
            "int8 dynamic": compression.dynamic(self.network),
        }
        scores = {kind: self.judge.selection(network) for kind, network in networks.items()}
        kind = min(scores, key=lambda name: scores[name])
        self._add("int8", kind, "student.int8.onnx", networks[kind], self.spec)
        self.bundle["variants"][-1][f"{self.judge.task.selection}_of"] = scores

    def pruned(self, sparsity: float) -> None:
        share = f"{100 * sparsity:g}"
        self._say(f"{share} % pruned")
        spec, weights = compression.prune(self.spec, self.weights, sparsity)
        weights = trained_on(self.config, self.data, spec, weights, share)
        self._add(f"pruned-{share}", "pruned", f"student.pruned-{share}.onnx", graph.network(spec, weights), spec)

    def finish(self) -> dict[str, Any]:
        self._write(deployed.BUNDLE, sealed(self.bundle))
        if self.config.export.latency:
            self._say("latency")
            latency.write(self.run, self.config, latency.BRIEF)
        self._write("MODEL_CARD.md", card.text(self.config, self.run, self.data, self.bundle).encode())
        best = [entry["name"] for entry in self.bundle["variants"] if entry["recommended"]]
        summary = {"variants": len(self.bundle["variants"]), "recommended": best}
        self.run.commit(MANIFEST, Manifest(fingerprint=self.fingerprint, files=self.files, summary=summary))
        size = self.bundle["variants"][0]["bytes"]
        self.report(1, 1, f"student.onnx, {size / 1000:.1f} kB, {len(self.bundle['variants']) - 1} variants")
        return summary

    def _add(self, name: str, kind: str, file: str, network: onnx.ModelProto, spec: MLP) -> bytes:
        """Write a variant and what it is worth; the first one is what the others are held against."""
        model = graph.join(self.data.preprocessor, network, self.data.schema["task"], facts_of(self.bundle, name))
        content = model.SerializeToString(deterministic=True)
        record = self._write(file, content)
        worth = self.judge.worth(network)
        entries = self.bundle["variants"]
        entry = {
            "name": name,
            "kind": kind,
            "file": file,
            "bytes": record.bytes,
            "sha256": record.sha256,
            "parameters": spec.n_parameters,
            "hidden": list(spec.hidden),
            **worth,
        }
        lost = self.judge.lost(entry, entries[0]) if entries else 0.0
        entries.append({**entry, "lost": lost, "recommended": lost <= self.config.export.tolerance})
        return content

    def _write(self, name: str, content: bytes) -> FileRecord:
        self.files.append(self.run.write_bytes(f"export/{name}", content))
        return self.files[-1]

    def _say(self, note: str) -> None:
        self.report(len(self.bundle["variants"]), self.steps, note)
