"""The student as a Ray job: `ray job submit --working-dir . -- python jobs/distill_student.py CONFIG ...`."""

from kd_ray.cli.jobs import run

if __name__ == "__main__":
    run("distill_student")
