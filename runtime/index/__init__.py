"""The codes of a folder of images in one file (index.db), searched exactly."""

from queryopt.runtime.index.hash_index import HashIndex, IndexInfo
from queryopt.runtime.index.merge import MergeReport
from queryopt.runtime.index.root import RootReport
from queryopt.runtime.index.rows import IndexedImage
from queryopt.runtime.index.update import UpdateReport
from queryopt.runtime.index.verify import VerifyReport

__all__ = ["HashIndex", "IndexInfo", "IndexedImage", "MergeReport", "RootReport", "UpdateReport", "VerifyReport"]
