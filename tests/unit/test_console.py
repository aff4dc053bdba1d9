"""What reaches the terminal."""

import sys
from pathlib import Path

import pytest
from made_run import classification, made_run

from kd_ray import cli, interrupts
from kd_ray.cli import using
from kd_ray.errors import ManifestError


def test_a_key_cannot_move_the_cursor_of_who_reads_the_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text('"clear\\x1b[2J\\x07\\ud800": 1\n')
    monkeypatch.setattr(sys, "argv", ["kd-ray", "check", str(tmp_path / "c.yaml")])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(interrupts, "listen", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert r"clear\x1b[2J\x07" in said
    assert said.replace("\n", "").isprintable()


def test_a_run_that_somebody_else_wrote_ends_in_one_line(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=classification("a", "b"))
    path = "teachers/0000/teacher.json"
    manifest = run.manifest(path)
    assert manifest is not None
    manifest.summary["metrics"]["loss"][1] = "x"
    Path(run.path(path)).write_bytes(manifest.to_json())
    with pytest.raises(ManifestError, match=r"made: cannot be read: .*it holds what kd-ray does not write"):
        using.report([str(run)])
