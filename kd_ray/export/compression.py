"""Smaller students: weights of 8 bits, and networks of fewer units, to be trained on.

Axes: N rows, D features, U hidden units of a layer.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch

from kd_ray.models import MLP


def dynamic(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with weights of 8 bits; activations are scaled as they come."""
    from onnxruntime import quantization

    with _files(network) as (given, made):
        quantization.quantize_dynamic(given, made, weight_type=quantization.QuantType.QInt8)
        return onnx.load(made)


def static(network: onnx.ModelProto, features_ND: np.ndarray) -> onnx.ModelProto:
    """Return the network with weights of 8 bits, and activations on scales that the rows' own fix."""
    from onnxruntime import quantization

    class Rows(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.parts = iter([features_ND])

        def get_next(self) -> dict[str, np.ndarray] | None:
            part = next(self.parts, None)
            return None if part is None else {"features": part}

    with _files(network) as (given, made):
        quantization.quantize_static(
            given,
            made,
            Rows(),
            quant_format=quantization.QuantFormat.QDQ,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=["Gemm", "MatMul"],
        )
        return onnx.load(made)


@contextlib.contextmanager
def _files(network: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Give a file of the network and one to write; what onnxruntime advises meanwhile is held back."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            given = Path(folder, "given.onnx")
            onnx.save(network, given)
            yield str(given), str(Path(folder, "made.onnx"))
    finally:
        log.setLevel(level)


def prune(spec: MLP, weights: dict[str, torch.Tensor], sparsity: float) -> tuple[MLP, dict[str, torch.Tensor]]:
    """Return a network without the share `sparsity` of each hidden layer's units, those that say least.

    What a unit says is measured by the norm of its weights in, bias included, times that of its weights out. Whole
    units go, since a runtime gains nothing from zeros scattered over a matrix. At least one unit a layer stays.
    """
    kept, names = dict(weights), spec.parameter_names()
    hidden = []
    for (weight, bias), (following, _) in pairwise(names):
        into_U = torch.cat([kept[weight], kept[bias][:, None]], 1).norm(dim=1)
        worth_U = into_U * kept[following].norm(dim=0)
        count = max(1, round(len(worth_U) * (1 - sparsity)))
        stay = worth_U.topk(count).indices.sort().values
        kept |= {weight: kept[weight][stay], bias: kept[bias][stay], following: kept[following][:, stay]}
        hidden.append(count)
    return replace(spec, hidden=tuple(hidden)), kept
