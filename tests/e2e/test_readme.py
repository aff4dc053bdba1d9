"""The README's Python, run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)


def test_the_python_call_runs_and_its_student_is_loaded(tmp_path: Path) -> None:
    call, load = BLOCKS
    load = load.replace("runs/default", "runs/trial")
    done = subprocess.run(
        [sys.executable, "-c", f"{call}\n{load}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    accuracy, path, said = done.stdout.split(maxsplit=2)
    assert 0.5 < float(accuracy) <= 1
    assert Path(path.strip()).is_file()
    assert said.strip().endswith("[0 1]")
