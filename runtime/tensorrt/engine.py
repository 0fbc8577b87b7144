"""An engine of TensorRT behind the protocols of the pipeline."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from queryopt.codes import code_bytes
from queryopt.errors import DeviceMemoryError, ModelError
from queryopt.runtime.cuda.base import Memory, Stream
from queryopt.runtime.tensorrt.fit import FittingEngine
from queryopt.runtime.tensorrt.flavours import Flavour
from queryopt.runtime.tensorrt.kernel_cache import KernelCache, cache_path
from queryopt.runtime.tensorrt.manifest import rebuild_hint
from queryopt.runtime.tensorrt.messages import collect_messages, stdout_kept_clean
from queryopt.runtime.tensorrt.pipeline import Tensor
from queryopt.text import display_path

__all__ = ["TensorRtEngine"]

_TYPES = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}
"""Names of TensorRT's DataType that inputs and outputs of a model.onnx become."""


class TensorRtEngine:
    """An engine that fits, deserialised. The device's context must be current.

    Raises ModelError where TensorRT doesn't take it, or its inputs and outputs are not what its card promises.
    """

    def __init__(self, fitting: FittingEngine) -> None:
        self._where = display_path(fitting.path)
        self._flavour = fitting.flavour
        self._messages = collect_messages(fitting.flavour.module)
        hint = rebuild_hint(fitting.path)
        self._runtime = fitting.flavour.module.Runtime(self._messages)
        # An engine may carry code for the processor: never run here, whatever the default is or becomes.
        self._runtime.engine_host_code_allowed = False
        with stdout_kept_clean():
            self._engine = self._runtime.deserialize_cuda_engine(fitting.plan)
        if self._engine is None and "memory" in self._messages.errors().lower():
            raise DeviceMemoryError(
                f"{self._where}: the GPU has no memory for this engine ({self._messages.errors()}): end what else uses "
                "the GPU (nvidia-smi lists it)"
            )
        if self._engine is None:
            raise ModelError(f"{self._where}: {fitting.flavour.text} can't load it ({self._messages.errors()}): {hint}")
        self._tensors = _tensors(self._engine, fitting.flavour)
        card = fitting.manifest.card
        size = card.preprocessing.image_size
        expected = {
            "images": (np.dtype(np.uint8), (size, size, 3)),
            "codes": (np.dtype(np.uint8), (code_bytes(card.bits),)),
            "logits": (np.dtype(np.float32), (card.bits,)),
        }
        tensors = {tensor.name: (tensor.dtype, tensor.row) for tensor in self._tensors}
        if any(tensors.get(name) != value for name, value in expected.items()):
            raise ModelError(f"{self._where}: its inputs and outputs are {tensors}, not those of its card: {hint}")
        self._kernels: KernelCache | None = None
        if fitting.flavour.portable:
            self._kernels = KernelCache(self._engine.create_runtime_config(), cache_path(fitting.path))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self._tensors

    def context(self, batch: int, stream: Stream) -> "TensorRtContext":
        with stdout_kept_clean():
            return TensorRtContext(
                self._engine, self._flavour, self._messages, self._where, self._tensors[0], batch, stream, self._kernels
            )

    def close(self) -> None:
        """Free it, and keep what was compiled for it."""
        if self._kernels is not None:
            self._kernels.save()
        self._kernels = self._engine = self._runtime = None


class TensorRtContext:
    """An execution context whose memory is the caller's, for batches of one size.

    A CUDA graph holds the state of the context that it was recorded from, so every size has a context of its own.
    """

    def __init__(
        self,
        engine: Any,
        flavour: Flavour,
        messages: Any,
        where: str,
        images: Tensor,
        batch: int,
        stream: Stream,
        kernels: KernelCache | None,
    ) -> None:
        self._messages = messages
        self._where = where
        self._flavour = flavour
        messages.clear()
        handle = stream.handle  # asked for first: it makes the device this thread's
        strategy = flavour.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if flavour.portable:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            # By default it compiles for a new shape in the background, and a graph would keep what it ran meanwhile.
            eager = flavour.module.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
            if kernels is not None:
                kernels.use(config)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            self._fail("makes no execution context")
        self._context = context
        self._check(context.set_optimization_profile_async(0, handle), "refuses its own profile")
        self._check(context.set_input_shape(images.name, (batch, *images.row)), f"refuses a batch of {batch}")
        stream.synchronize()
        self._scratch = int(context.update_device_memory_size_for_shapes())

    @property
    def scratch(self) -> int:
        return self._scratch

    def bind(self, tensors: Mapping[str, Memory], scratch: Memory) -> None:
        self._messages.clear()
        self._context.set_device_memory(scratch.pointer, scratch.nbytes)
        for name, memory in tensors.items():
            self._check(self._context.set_tensor_address(name, memory.pointer), f"refuses the address of {name}")
        unknown = self._context.infer_shapes()
        self._check(not unknown, f"lacks {', '.join(unknown)}")

    def capturable(self, stream: Stream) -> bool:
        """Whether a run can be recorded; TensorRT itself says so only when it is tried."""
        return not self._flavour.portable or bool(self._context.is_stream_capturable(stream.handle))

    def enqueue(self, stream: Stream) -> None:
        self._messages.clear()
        self._check(self._context.execute_async_v3(stream.handle), "failed on a batch")

    def close(self) -> None:
        self._context = None

    def _check(self, fine: bool, what: str) -> None:
        if not fine:
            self._fail(what)

    def _fail(self, what: str) -> None:
        reason = self._messages.errors()
        if "memory" in reason.lower():
            raise DeviceMemoryError(f"{self._flavour.text} says {reason}")
        raise ModelError(
            f"{self._where}: {self._flavour.text} {what} ({reason}): build the engine again with qo-infer --rebuild"
        )


def _tensors(engine: Any, flavour: Flavour) -> tuple[Tensor, ...]:
    tensors = []
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        kind = engine.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise ModelError(
                f"an engine with a tensor {name} of {kind}: {flavour.text} made none of those of qo-export"
            )
        tensors.append(Tensor(name, np.dtype(_TYPES[kind]), tuple(engine.get_tensor_shape(name))[1:]))
    return tuple(sorted(tensors, key=lambda tensor: tensor.name != "images"))
