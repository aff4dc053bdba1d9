"""A command as a Ray job on a cluster that grows: `python jobs/with_nodes.py --count 4 --gpus 1 -- COMMAND ...`.

kd_ray counts the nodes that are there. This asks the autoscaler for them, waits until they are, and runs the command.
"""

import math
import os
import subprocess
import sys
import time
from typing import Annotated

import ray
import typer
from ray.autoscaler.sdk import request_resources


def wait_for(bundle: dict[str, float], count: int, seconds: float) -> bool:
    """Return whether `count` bundles fit on the cluster within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if sum(min(math.floor(node.get(name, 0) / each) for name, each in bundle.items()) for node in nodes) >= count:
            return True
        time.sleep(2)
    return False


def main(
    command: Annotated[list[str], typer.Argument(help="What to run, after --.")],
    count: Annotated[int, typer.Option(min=1, help="Bundles to wait for.")] = 1,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs of a bundle.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of a bundle.")] = 0.0,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for them.")] = 1200.0,
) -> None:
    """Ask the autoscaler for nodes, wait for them, run COMMAND, and take the request back."""
    bundle = {name: each for name, each in (("CPU", cpus), ("GPU", gpus)) if each}
    if not bundle:
        raise typer.BadParameter("must ask for CPUs or GPUs")
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level="ERROR")
    try:
        request_resources(bundles=[bundle] * count)
        if not wait_for(bundle, count, wait):
            print(f"error: {count} x {bundle} did not come in {wait:g} s; see what `ray status` says", file=sys.stderr)
            raise typer.Exit(2)
        code = subprocess.run(command, check=False).returncode
    finally:
        request_resources(bundles=[])
        ray.shutdown()
    raise typer.Exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    typer.run(main)
