"""ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt.cores import usable_cores
from queryopt.errors import MissingError, ModelError
from queryopt.runtime.backends.base import (
    Port,
    SessionBackend,
    attention_tokens,
    check_ports,
    closed,
    failed,
)
from queryopt.runtime.onnx_file import read_card, read_onnx
from queryopt.text import counted, display_path, install_extra

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntimeBackend", "has_cuda_provider"]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

_TYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types, where they aren't NumPy's."""


def has_cuda_provider() -> bool:
    """Whether the ONNX Runtime that is installed was built for CUDA; whether a GPU is there, only a session shows."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return _CUDA in onnxruntime.get_available_providers()


class OnnxRuntimeBackend(SessionBackend):
    """A model.onnx in an ONNX Runtime session.

    path: the file.
    threads: of the session on the CPU (None: usable_cores()).
    cuda: run it on GPU 0, or not at all: ONNX Runtime itself goes on to the CPU without a word where it can't.
    channels_last: on CUDA, convolve in the layout that tensor cores want ("NHWC"); None: where the model isn't fp32.

    Raises ModelError and MissingError as open_backend.
    """

    def __init__(
        self, path: Path, threads: int | None = None, cuda: bool = False, channels_last: bool | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            extra = "cuda" if cuda else "cpu"
            raise MissingError(f"running a model needs onnxruntime ({error}): {install_extra(extra)}") from None
        where = display_path(path)
        if cuda:
            _check_cuda(onnxruntime)
        threads = threads or usable_cores()
        content = read_onnx(path)
        providers: list[Any] = [_CPU]
        if cuda:
            if channels_last is None:
                channels_last = read_card(content, where).precision != "fp32"
            providers.insert(0, (_CUDA, _cuda_options(channels_last)))
        session = _session(onnxruntime, content, where, threads, providers)
        _check_providers(session.get_providers(), where, cuda)
        card = read_card(content, where)
        outputs = _ports(session.get_outputs())
        check_ports(_ports(session.get_inputs()), outputs, card, where)
        layout = ", NHWC" if channels_last else ""
        on = f"CUDA{layout}" if cuda else f"CPU, {counted(threads, 'thread', 'threads')}"
        self._session: onnxruntime.InferenceSession | None = session

        def infer(names: list[str], pixels: npt.NDArray[np.uint8]) -> Any:
            try:
                return session.run(names, {"images": pixels})
            except Exception as error:  # its exceptions have no base of their own
                raise failed(where, len(pixels), _reason(error)) from None

        name = f"onnxruntime {onnxruntime.__version__} ({on})"
        super().__init__(card, name, where, attention_tokens(outputs, card, where), infer)

    @property
    def session(self) -> "onnxruntime.InferenceSession":
        """The session itself, for whoever binds the memory of inputs and outputs. UsageError after `close`."""
        if self._session is None:
            raise closed(self._where)
        return self._session

    def close(self) -> None:
        super().close()
        self._session = None


def _check_cuda(onnxruntime: Any) -> None:
    """Before a session is made: the package must be the one for CUDA."""
    if _CUDA not in onnxruntime.get_available_providers():
        raise MissingError(
            f"onnxruntime {onnxruntime.__version__} was built without CUDA: pip uninstall onnxruntime, then "
            f"{install_extra('cuda')}; or take --backend onnxruntime"
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their wheels, where they are installed so


def _check_providers(providers: list[str], where: str, cuda: bool) -> None:
    if cuda and _CUDA not in providers:
        raise MissingError(
            f"onnxruntime can't run {where} on CUDA and would run it on {', '.join(providers)}: there is no GPU, or "
            "the driver, CUDA or cuDNN is missing or too old (nvidia-smi shows the GPU and what the driver can; the "
            "extra [cuda] brings the rest)"
        )
    if not cuda and providers != [_CPU]:
        raise MissingError(
            f"onnxruntime runs {where} on {', '.join(providers)} instead of {_CPU}: reinstall it with: "
            "pip install --force-reinstall onnxruntime"
        )


def _cuda_options(channels_last: bool) -> dict[str, str]:
    # By default it rounds the factors of fp32 products to 10 bits: the graph says what precision there is.
    return {"device_id": "0", "use_tf32": "0", "prefer_nhwc": str(int(channels_last))}


def _session(
    onnxruntime: Any, content: bytes, where: str, threads: int, providers: list[Any]
) -> "onnxruntime.InferenceSession":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the processor from the threads that decode, and from other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its exceptions have no base of their own
        raise _load_error(onnxruntime, error, content, where) from None


def _load_error(onnxruntime: Any, error: Exception, content: bytes, where: str) -> ModelError | MissingError:
    try:
        precision = read_card(content, where).precision
    except ModelError:
        precision = ""
    if precision == "bf16" and "NOT_IMPLEMENTED" in str(error):
        return MissingError(
            f"{where}: onnxruntime {onnxruntime.__version__} can't compute in bfloat16 here ({_reason(error)}): take "
            "--backend openvino on a CPU with AVX512-BF16 or AMX, an engine of TensorRT, or a model of another "
            "--precision"
        )
    return ModelError(
        f"{where}: not a model that onnxruntime {onnxruntime.__version__} can load ({_reason(error)}): it is cut "
        "off, damaged, or no ONNX file; export it again with qo-export"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _ports(nodes: Any) -> dict[str, Port]:
    ports = {}
    for node in nodes:
        kind = node.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple(size if isinstance(size, int) else None for size in node.shape)
        ports[node.name] = (_TYPES.get(kind, kind), shape)
    return ports
