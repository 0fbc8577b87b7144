"""What TensorRT-RTX compiled for this GPU, kept beside the engine: the next process loads it and compiles nothing.

TensorRT-RTX compiles an engine's kernels where it runs ("runtime cache" is its word). It checks a file itself, against
its own version, the GPU and the driver, and leaves one alone that doesn't fit. Nothing that goes wrong here matters but
for time: it is logged, and the engine runs.
"""

import logging
from pathlib import Path
from typing import Any

from queryopt.errors import UsageError
from queryopt.files import replacing
from queryopt.text import display_path

__all__ = ["KernelCache", "cache_path"]

_log = logging.getLogger("queryopt")


def cache_path(plan: Path) -> Path:
    """Where the compiled kernels of a model.plan lie: model.plan.cache."""
    return plan.with_name(plan.name + ".cache")


class KernelCache:
    """The cache of an engine. configuration: an IRuntimeConfig of that engine; its device must be the thread's."""

    def __init__(self, configuration: Any, path: Path) -> None:
        self._path = path
        self._loaded = b""
        self._cache = configuration.create_runtime_cache()
        if self._cache is None:
            return
        try:
            content = path.read_bytes()
        except OSError:  # most often, there is none yet
            return
        if content and self._cache.deserialize(content):
            self._loaded = content
        else:
            _log.debug("%s: of another GPU, driver or version: not used", display_path(path))

    def use(self, configuration: Any) -> None:
        """Let a context that is made with this configuration take kernels from here, and leave its own."""
        if self._cache is not None and not configuration.set_runtime_cache(self._cache):
            _log.debug("%s: TensorRT-RTX doesn't take it", display_path(self._path))

    def save(self) -> None:
        """Write what was compiled since."""
        memory = None if self._cache is None else self._cache.serialize()
        content = b"" if memory is None else bytes(memory)
        if not content or content == self._loaded:
            return
        try:
            with replacing(self._path) as file:
                file.write(content)
        except (OSError, UsageError) as error:
            _log.debug("compiled kernels are not kept: %s", error)
        else:
            self._loaded = content
