"""Which official data sets there are: every module of this package that defines DATASET."""

import pkgutil
from functools import cache
from importlib import import_module

from queryopt.errors import UsageError
from queryopt.text import did_you_mean
from queryopt.train.datasets.official import OfficialDataset

__all__ = ["dataset_names", "official_dataset"]


def dataset_names() -> tuple[str, ...]:
    """The names that `official_dataset` takes, sorted."""
    return tuple(sorted(_datasets()))


def official_dataset(name: str) -> OfficialDataset:
    """The data set of this name. UsageError where there is none."""
    if name not in _datasets():
        raise UsageError(
            f"no data set is called {name!r}: there are {', '.join(dataset_names())}"
            f"{did_you_mean(name, dataset_names())}"
        )
    return _datasets()[name]


@cache
def _datasets() -> dict[str, OfficialDataset]:
    package = import_module("queryopt.train.datasets")
    modules = (import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__))
    found = (getattr(module, "DATASET", None) for module in modules)
    return {dataset.name: dataset for dataset in found if isinstance(dataset, OfficialDataset)}
