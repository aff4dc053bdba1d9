"""The page of one run."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kd_ray.report import curves, diagnostics, rows, tradeoff
from kd_ray.report.figures import Figures, count, duration, three_digits
from kd_ray.report.sources import Sources
from kd_ray.wording import LABELS, left_out, quantity, share

HERE = Path(__file__).parent
COLUMNS = 200
JUDGED = ("ensemble", "student", "baseline")


def render(template: str, **context: Any) -> str:
    """Fill a template; whatever is not Markup is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(style=Markup((HERE / "style.css").read_text()), **context)


def of_run(sources: Sources) -> str:
    """Return the page as HTML."""
    figures = rows.figures_of(sources)
    model_headings, models = rows.models(sources, figures)
    latency_headings, latencies = rows.latencies(sources, figures)
    return render(
        "page.html",
        name=sources.run.name,
        path=str(sources.run),
        is_regression=sources.is_regression,
        target=sources.data.schema.get("target"),
        cards=rows.cards(sources, figures),
        members=len(sources.evaluation["teachers"]),
        failed_members=left_out(sources.evaluation),
        test_rows=figures("rows.test", count),
        student_parameters=figures("parameters.student", count),
        recoveries=rows.recoveries(sources, figures),
        recovered_picture=tradeoff.recovered_shares(sources),
        model_headings=model_headings,
        models=models,
        latency_headings=latency_headings,
        latencies=latencies,
        machine=(sources.latency or {}).get("machine"),
        tradeoffs=[p for p in (tradeoff.against_latency(sources), tradeoff.against_size(sources)) if p],
        metric=LABELS[sources.metric][0],
        curves=curves.learning_curves(sources),
        teacher_scores=curves.teacher_scores(sources),
        fidelity=_fidelity(sources, figures),
        differences=diagnostics.differences(sources),
        variants=bool(sources.variants),
        **_diagnostics(sources),
        **_provenance(sources, figures),
    )


def _diagnostics(sources: Sources) -> dict[str, Any]:
    judged = [role for role in JUDGED if role in sources.answers.says]
    if sources.is_regression:
        return {
            "fits": [(role, diagnostics.predicted(role, sources.answers)) for role in judged],
            "residuals": [(role, diagnostics.residuals(role, sources.answers)) for role in judged],
        }
    return {
        "classes": sources.classes,
        "fits": [(role, diagnostics.reliability(role, sources.answers)) for role in judged],
        "confusions": [diagnostics.confusion(role, sources) for role in JUDGED[:2]],
    }


def _fidelity(sources: Sources, figures: Figures) -> list[tuple[str, Any]]:
    if sources.is_regression:
        return [
            ("RMSE between student and ensemble", figures("fidelity.rmse", quantity)),
            ("correlation of student and ensemble", figures("fidelity.correlation", share)),
            ("standard deviation among teachers, mean over rows", figures("disagreement", quantity)),
        ]
    return [
        ("test rows with one class from both", figures("fidelity.agreement", share)),
        ("KL(ensemble ‖ student), nats a row", figures("fidelity.kl", three_digits)),
        ("standard deviation among teachers, mean over rows", figures("disagreement", share)),
    ]


def _provenance(sources: Sources, figures: Figures) -> dict[str, Any]:
    """What the data are, how the run was configured, and what made it."""
    schema, record = sources.data.schema, sources.record
    plain = [{"name": name, "kind": "numeric", "note": ""} for name in schema["features"].get("names", [])]
    columns = schema.get("columns") or plain
    stages = record.get("stages", {})
    return {
        "splits": [(split, figures(f"rows.{split}", count)) for split in sources.evaluation["rows"]],
        "class_rows": [
            (name, figures(f"class_rows.{c}", count), *(_recall(figures, role, c) for role in JUDGED))
            for c, name in enumerate(sources.classes)
        ],
        "source": schema.get("source") or sources.config.data.source,
        "columns": columns[:COLUMNS],
        "columns_beyond": max(0, len(columns) - COLUMNS),
        "left_out": schema.get("left_out") or {},
        "config": sources.config.to_yaml(),
        "versions": record.get("versions", {}),
        "host": record.get("host", ""),
        "stages": [
            (name.replace("_", " "), figures(f"record.stages.{name}.seconds", duration), facts.get("fingerprint", ""))
            for name, facts in stages.items()
        ],
    }


def _recall(figures: Figures, role: str, c: int) -> Any:
    return figures(f"metrics.{role}.recall.{c}", share)
