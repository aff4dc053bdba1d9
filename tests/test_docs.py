"""The README's commands, trees and links are those of the repository."""

import re
from pathlib import Path

import pytest

from kd_ray import Config
from kd_ray.models import MLP

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_folder_of_the_layout_is_there_and_no_other() -> None:
    layout = README.split("## Layout")[1].split("```")[1]
    named = set(re.findall(r"^(\w+)/", layout, re.MULTILINE))
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert named == there - {"runs", "build"} - {name for name in there if name.endswith(".egg-info")}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", README))))
def test_every_make_target_that_is_named_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(doc: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", doc.read_text()):
        assert (doc.parent / link).exists(), link


def test_the_readme_gives_the_sizes_that_the_default_models_have() -> None:
    config = Config()
    for model in (config.teachers.model, config.student.model):
        spec = MLP.of(n_features=20, hidden=model.hidden, n_classes=2, dropout=model.dropout)
        assert f"{spec.n_parameters:,}" in README
    assert f"{4000 * (1 + config.soft_targets.transfer.factor):,} rows labelled" in README


def test_every_knob_that_the_readme_sets_exists() -> None:
    for assignment in re.findall(r"--set ([\w.]+=\S+)", README):
        assert Config.from_yaml(ROOT / "examples/default.yaml", [assignment])


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_no_document_has_a_gap_to_fill(doc: Path) -> None:
    assert not re.search(r"@@|TODO|TBD", doc.read_text())
