import subprocess
import sys

import pytest

import queryopt.export


def test_every_name_is_there():
    for name in queryopt.export.__all__:
        assert getattr(queryopt.export, name).__name__ == name
    assert set(queryopt.export.__all__) <= set(dir(queryopt.export))
    with pytest.raises(AttributeError, match="no attribute 'build'"):
        queryopt.export.build  # noqa: B018


def test_the_command_s_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom queryopt.export.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
