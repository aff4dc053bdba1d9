"""The whole pipeline as a Ray job: `ray job submit --working-dir . -- python jobs/run_pipeline.py CONFIG ...`.

Takes the arguments of `kd-ray run`; inside a job it joins the cluster that the job runs on.
"""

import os
import sys

from kd_ray.cli import main

if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")
    sys.argv[1:1] = ["run"]
    main()
