"""Serve an exported student over HTTP with the standard library and onnxruntime alone: no torch, no Ray, no kd_ray.

python examples/serve_onnx.py runs/default/export/student.onnx 8080
curl -d '{"numeric": [[0.1, 0.2, ...]]}' http://127.0.0.1:8080
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
kinds = {"tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(string)": object}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = session.run(None, {given.name: np.array(rows[given.name], kinds[given.type]) for given in inputs})[0]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(said.tolist()).encode())


inputs = session.get_inputs()
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
