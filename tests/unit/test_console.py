"""What reaches the terminal."""

import sys

import pytest

from kd_ray import cli, interrupts


def test_a_key_cannot_move_the_cursor_of_who_reads_the_mistake(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
