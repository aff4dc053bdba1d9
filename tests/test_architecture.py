"""Who may import whom, and how long a module may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kd_ray"
STAGES = {"data", "teachers", "soft_targets", "student", "evaluate", "export", "report"}
AROUND = {
    *("pipeline", "fingerprints", "session", "joining", "nodes", "submit", "upload", "cli", "summary"),
    *("predict", "tune", "keeping"),
}
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")
}
FOUNDATIONS = {name for name in MODULES if name.split(".")[0] not in STAGES | AROUND | {"__init__"}}


def imports(module: str) -> set[str]:
    """Top-level packages and kd_ray modules that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "kd_ray":
            found |= {f"kd_ray.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            first, _, rest = node.module.partition(".")
            found.add(f"kd_ray.{rest.split('.')[0]}" if first == "kd_ray" else first)
    return found


@pytest.mark.parametrize("module", sorted(FOUNDATIONS))
def test_a_foundation_imports_no_ray_and_nothing_above_it(module: str) -> None:
    above = {f"kd_ray.{name}" for name in STAGES | AROUND}
    assert not imports(module) & ({"ray"} | above)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.split(".")[0] in STAGES))
def test_a_stage_imports_no_other_stage(module: str) -> None:
    others = {f"kd_ray.{name}" for name in (STAGES - {module.split(".")[0]}) | {"pipeline", "cli", "summary"}}
    assert not imports(module) & others


@pytest.mark.parametrize(
    "path", [*PACKAGE.rglob("*.py"), *(ROOT / "jobs").glob("*.py")], ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_a_module_is_under_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_no_module_is_named_for_nothing() -> None:
    assert not {"utils", "common", "helpers", "misc"} & {path.stem for path in PACKAGE.rglob("*.py")}


def test_importing_the_package_imports_neither_torch_nor_ray() -> None:
    code = "import sys, kd_ray; kd_ray.Config(); print([m for m in ('torch', 'ray', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_every_job_says_how_it_is_used(job: Path) -> None:
    done = subprocess.run([sys.executable, str(job), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
