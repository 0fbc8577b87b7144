"""Attribute-aware hash codes for fine-grained image retrieval: train, export, hash, search."""

import os

__version__ = "0.1.0"

# In a checkout the rooms (train, export, runtime, bench) lie beside this folder, not in it, and `python -c` or
# `python -m` at its root finds this folder before the installed package.
_above = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(os.path.join(__path__[0], "runtime")) and os.path.isfile(os.path.join(_above, "pyproject.toml")):
    __path__.append(_above)
del _above
