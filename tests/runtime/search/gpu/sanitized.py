"""Searches on kernels that a sanitizer watches; run as a program with the sanitizer's library preloaded.

Arguments: the kernels' source, a folder for what is compiled, and the compiler's flags.
"""

import sys
from pathlib import Path

import numpy as np

from emulated_cuda import EmulatedRuntime
from queryopt.runtime.cuda import Kernel, Program
from queryopt.runtime.search import HammingIndex
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning


def main(source: str, folder: str, *flags: str) -> None:
    class Changed(EmulatedRuntime):
        def load(self, program: Program) -> dict[str, Kernel]:
            return super().load(Program(Path(source), program.kernels))

    runtime = Changed(flags=flags, folder=Path(folder), multiprocessors=1, resident=2)
    rng = np.random.default_rng(0)
    # Two steps of rows a warp and more, lists that overflow, a last piece that is not full.
    for bits, codes, k in (
        (64, np.full(4123, 5, np.uint64), 3),
        (12, np.sort(rng.integers(0, 4096, 1500).astype(np.uint64))[::-1], 4),
        (33, rng.integers(0, 2**33, 700).astype(np.uint64), 703),
    ):
        queries = np.concatenate([codes[-1:], np.zeros(1, np.uint64)])
        cpu, tuning = HammingIndex(codes, bits), Tuning(sample=128, min_piece=64, select_threads=64)
        with CudaHammingIndex(codes, bits, None, runtime, tuning) as gpu:
            np.testing.assert_array_equal(gpu.search(queries, k).ids, cpu.search(queries, k).ids)
            near = gpu.search_radius(queries, bits // 3)
            np.testing.assert_array_equal(near.ids, cpu.search_radius(queries, bits // 3).ids)
    print("as on the CPU")


main(*sys.argv[1:])
