"""The whole pipeline as a Ray job: `ray job submit --working-dir . -- python jobs/run_pipeline.py CONFIG ...`."""

from kd_ray.cli.jobs import run

if __name__ == "__main__":
    run("run_pipeline")
