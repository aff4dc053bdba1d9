"""The soft targets as a Ray job: `ray job submit --working-dir . -- python jobs/make_soft_targets.py CONFIG ...`."""

from kd_ray.cli.jobs import run

if __name__ == "__main__":
    run("make_soft_targets")
