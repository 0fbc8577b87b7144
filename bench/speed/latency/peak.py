"""What the machine can do: multiply-adds of a large matrix product in each precision, and reading memory.

Measured in the same rounds as the models, with as many threads. The products are those of the libraries that run the
models: ONNX Runtime's for fp32 and int8, PyTorch's for bf16 and fp16, which ONNX Runtime has no product for on a CPU.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from queryopt.bench.speed.harness import timed
from queryopt.bench.speed.latency.contenders import cpu_options

__all__ = ["Machine", "Meter", "Peaks"]

_SIDE = 1536
"""Rows and columns of the product: 7 GFLOP, above which the rate grew no more; its operands leave the caches."""
_READ = 1 << 28
"""Bytes that are read to measure the memory: far more than any cache holds."""


@dataclass(frozen=True)
class Peaks:
    """The fastest that was seen. flops: by precision, floating-point (or integer) operations a second, a multiply-add
    being two. bytes_per_second: of reading memory."""

    flops: dict[str, float]
    bytes_per_second: float


class Meter(Protocol):
    """Measures what a machine can do, a little at a call, beside those that run on it."""

    def measure(self) -> None:
        """Measure everything once more."""

    def peaks(self) -> Peaks:
        """The best of what was measured."""


class Machine:
    """A Meter of the CPU, for `precisions`. What can't be measured here (no package) is left out."""

    def __init__(self, precisions: set[str], threads: int) -> None:
        self._products = {
            name: product for name in sorted(precisions) if (product := _product(name, threads)) is not None
        }
        self._parts = np.array_split(np.ones(_READ // 8, np.int64), threads)
        self._flops: dict[str, float] = {}
        self._read = 0.0

    def measure(self) -> None:
        for name, product in self._products.items():
            self._flops[name] = max(self._flops.get(name, 0.0), 2 * _SIDE**3 / timed(product).wall)
        self._read = max(self._read, _READ / timed(self._read_memory).wall)

    def peaks(self) -> Peaks:
        return Peaks(dict(self._flops), self._read)

    def _read_memory(self) -> None:
        with ThreadPoolExecutor(len(self._parts)) as pool:  # NumPy sums without the interpreter's lock
            list(pool.map(np.sum, self._parts))


def _product(precision: str, threads: int) -> Callable[[], object] | None:
    try:
        return (_onnx_product if precision in ("fp32", "int8") else _torch_product)(precision, threads)
    except ImportError:
        return None


def _onnx_product(precision: str, threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper

    # An even operator of the domain, so that the product is of the kind that the models' layers are.
    kinds = {"fp32": (TensorProto.FLOAT,) * 3, "int8": (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)}
    left, right, result = kinds[precision]
    shape = [_SIDE, _SIDE]
    weights = np.full(shape, 1, np.float32 if precision == "fp32" else np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMul" if precision == "fp32" else "MatMulInteger", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", left, shape)],
        [helper.make_tensor_value_info("c", result, shape)],
        [helper.make_tensor("b", right, shape, weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), cpu_options(threads), providers=["CPUExecutionProvider"]
    )
    data = np.ones(shape, np.float32 if precision == "fp32" else np.uint8)
    return lambda: session.run(None, {"a": data})


def _torch_product(precision: str, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    left, right = (torch.ones(_SIDE, _SIDE, dtype=kind) for _ in range(2))

    def run() -> object:
        with torch.inference_mode():
            return left @ right

    return run
