"""What is used of TensorRT's API is in TensorRT 10 and 11, which can't be installed here, and in TensorRT-RTX."""

import ast
from pathlib import Path

import pytest

import queryopt.runtime.tensorrt

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")

COMMON = {
    "Builder": ["build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile"],
    "BuilderFlag": ["TF32"],
    "DataType": ["name"],
    "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
    "IBuilderConfig": [
        "add_optimization_profile",
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "set_flag",
        "set_memory_pool_limit",
        "set_timing_cache",
    ],
    "ICudaEngine": [
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
    ],
    "IExecutionContext": [
        "execute_async_v3",
        "infer_shapes",
        "set_device_memory",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
        "update_device_memory_size_for_shapes",
    ],
    "ILogger": ["ERROR", "WARNING", "log"],
    "IOptimizationProfile": ["set_shape"],
    "ITimingCache": ["serialize"],
    "MemoryPoolType": ["WORKSPACE"],
    "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED"],
    "OnnxParser": ["get_error", "num_errors", "parse"],
    "ParserError": ["desc", "node_name", "node_operator"],
    "Runtime": ["deserialize_cuda_engine", "engine_host_code_allowed"],
}
"""Class -> members that are used. Each was looked up in the listings of TensorRT 10.16.1.11 and 11.4.0.106."""

RTX_ONLY = {
    "BuilderFlag": ["REQUIRE_USER_ALLOCATION"],
    "ComputeCapability": [],
    "DynamicShapesKernelSpecializationStrategy": ["EAGER"],
    "IBuilderConfig": ["num_compute_capabilities", "set_compute_capability"],
    "ICudaEngine": ["create_runtime_config"],
    "IExecutionContext": ["is_stream_capturable"],
    "IRuntimeCache": ["deserialize", "serialize"],
    "IRuntimeConfig": [
        "create_runtime_cache",
        "dynamic_shapes_kernel_specialization_strategy",
        "set_execution_context_allocation_strategy",
        "set_runtime_cache",
    ],
}
"""Used of TensorRT-RTX alone."""

OTHERS = {"dtype", "name", "nbytes", "path", "read", "seek", "shape", "write"}
"""Members of TensorRT's classes whose names are ordinary words, and that other objects have too."""

GONE = {
    "BF16",
    "EXPLICIT_BATCH",
    "FP16",
    "FP4",
    "FP8",
    "INT4",
    "INT8",
    "OBEY_PRECISION_CONSTRAINTS",
    "PREFER_PRECISION_CONSTRAINTS",
    "device_memory_size",
    "dynamic_range",
    "int8_calibrator",
    "platform_has_fast_fp16",
    "platform_has_fast_int8",
    "supports_model",
}
"""What TensorRT 11 took out."""

ROOT = Path(queryopt.runtime.tensorrt.__file__).parent
# The others have no object of TensorRT in their hands.
SOURCES = [ROOT / name for name in ("build.py", "engine.py", "flavours.py", "kernel_cache.py", "messages.py")]


def attributes(path: Path) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def api() -> set[str]:
    """The classes of TensorRT-RTX and their public members."""
    classes = {name: value for name, value in vars(tensorrt_rtx).items() if isinstance(value, type)}
    members = {member for value in classes.values() for member in dir(value) if not member.startswith("_")}
    return members | {name for name in classes if name[0].isupper()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_used_that_was_not_looked_up(path: Path) -> None:
    known = {name for table in (COMMON, RTX_ONLY) for owner, members in table.items() for name in (owner, *members)}
    ours = {"Path", *dir(str), *dir(bytes), *dir(list), *dir(set), *dir(dict)}
    assert (attributes(path) & api()) - known - OTHERS - ours == set()


def test_no_other_module_uses_a_package_of_tensorrt() -> None:
    others = {path for path in ROOT.parent.rglob("*.py") if path not in SOURCES}
    assert not {path for path in others if attributes(path) & {"module"}}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_used_that_tensorrt_11_has_not(path: Path) -> None:
    assert attributes(path) & GONE == set()


@pytest.mark.parametrize("table", [COMMON, RTX_ONLY])
def test_tensorrt_rtx_has_it(table: dict[str, list[str]]) -> None:
    missing = [
        f"{owner}.{m}"
        for owner, members in table.items()
        for m in members
        if not hasattr(getattr(tensorrt_rtx, owner), m)
    ]
    assert not missing
