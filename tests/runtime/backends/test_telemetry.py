import os
import subprocess
import sys
from pathlib import Path

import pytest

_OPEN = """
import sys, time
from queryopt.runtime import Hasher
import numpy as np
hasher = Hasher(sys.argv[1], backend=sys.argv[2])
side = hasher.card.preprocessing.image_size
hasher.hash_pixels(np.zeros((1, side, side, 3), np.uint8))
time.sleep(1)  # what reports does so in a thread of its own
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_backend_reports_to_its_maker(frozen_model: Path, tmp_path: Path, backend: str) -> None:
    """Both makers' telemetry leaves an id of the machine in the home folder before it sends anything."""
    pytest.importorskip(backend)
    variables = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    command = [sys.executable, "-P", "-c", _OPEN, str(frozen_model), backend]
    subprocess.run(command, check=True, env=variables | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
