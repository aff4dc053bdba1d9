"""The teachers as a Ray job: `ray job submit --working-dir . -- python jobs/train_teachers.py CONFIG ...`."""

from kd_ray.cli.jobs import run

if __name__ == "__main__":
    run("train_teachers")
