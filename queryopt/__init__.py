"""Attribute-aware hash codes for fine-grained image retrieval: train, export, hash, search."""

import os

__version__ = "0.1.0"

# ONNX Runtime reports on its use to its maker unless this is set before it is imported. Nothing here calls home; who
# sets the variable to something else is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a checkout the rooms (train, export, runtime, bench) lie beside this folder, not in it, and Python that is started
# at its root (`python`, -c, -m, a notebook) finds this folder before the installed package.
if not os.path.isdir(os.path.join(__path__[0], "runtime")):
    from queryopt import checkout

    checkout.enter(__path__, __version__)
