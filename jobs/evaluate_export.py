"""The evaluation, export and report as a Ray job.

`ray job submit --working-dir . -- python jobs/evaluate_export.py CONFIG ...`.
"""

from kd_ray.cli.jobs import run

if __name__ == "__main__":
    run("evaluate_export")
