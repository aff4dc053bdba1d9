"""Serve examples/serve_ray.py on a private node and a port of its own until told to end."""

import os
import signal
import sys
import threading

import ray
from ray import serve

from kd_ray.session import quoted_python

sys.path.insert(0, os.getcwd())
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=quoted_python())
signal.signal(signal.SIGTERM, lambda *_: ended.set())
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})

from examples.serve_ray import app  # noqa: E402

serve.run(app, name="student")
ended.wait()
serve.shutdown()
ray.shutdown()
