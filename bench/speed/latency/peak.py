"""What the machine can do: multiply-adds of a large matrix product in each precision, and reading memory.

Measured in the same rounds as the models, with as many threads. The products are those of the libraries that run the
models: ONNX Runtime's for fp32 and int8, PyTorch's for bf16 and fp16, which ONNX Runtime has no product for on a CPU.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

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
    """Measures peaks for `precisions`, a little at a call. What can't be measured here (no package) is left out."""

    def __init__(self, precisions: set[str], threads: int) -> None:
        self._products = {
            name: product for name in sorted(precisions) if (product := _product(name, threads)) is not None
        }
        self._memory = np.ones(_READ // 8, np.int64)
        self._threads = threads
        self._best: dict[str, float] = {}
        self._read = 0.0

    def measure(self) -> None:
        """Run every product, and read the memory, once."""
        for name, product in self._products.items():
            seconds = _seconds(product)
            self._best[name] = max(self._best.get(name, 0.0), 2 * _SIDE**3 / seconds)
        self._read = max(self._read, self._memory.nbytes / _seconds(self._read_memory))

    def peaks(self) -> Peaks:
        """The best of what was measured."""
        return Peaks(dict(self._best), self._read)

    def _read_memory(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        parts = np.array_split(self._memory, self._threads)
        with ThreadPoolExecutor(self._threads) as pool:  # NumPy sums without the interpreter's lock
            list(pool.map(np.sum, parts))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _product(precision: str, threads: int) -> Callable[[], object] | None:
    try:
        if precision in ("fp32", "int8"):
            return _onnx_product(precision, threads)
        return _torch_product(precision, threads)
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
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
