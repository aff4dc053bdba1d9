"""A search over the student's knobs as a Ray job.

`ray job submit --working-dir . -- python jobs/tune_student.py CONFIG ...`.
"""

from kd_ray.cli.jobs import run

if __name__ == "__main__":
    run("tune_student")
