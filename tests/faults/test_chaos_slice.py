"""A short slice of `make chaos`: a few of each of the cases that take seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SLICE = ["driver=2", "signals=1", "crashes-after-ray=6", "owners=2", "fuzz-configs=400", "fuzz-runs=60"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    lines = tmp_path_factory.mktemp("chaos") / "rows.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *SLICE, "--seed", "1", "--json", lines],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert lines.exists(), done.stderr
    return [json.loads(line) for line in lines.read_text().splitlines()]


@pytest.mark.parametrize("case", [word.partition("=")[0] for word in SLICE])
def test_a_run_ends_as_it_must_whatever_is_done_to_it(rows: list[dict[str, Any]], case: str) -> None:
    of_case = [row for row in rows if row["case"] == case]
    assert of_case
    for row in of_case:
        assert row["tried"] > 0
        assert row["good"] == row["tried"], row["problems"]


def test_a_case_that_is_not_there_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.chaos", "drivers"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown case drivers; there are driver," in done.stderr
