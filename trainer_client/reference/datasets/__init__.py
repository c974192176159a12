"""Public data sets from the folders in which they are found: read with care, decoded late, checked on request."""

from .catalogue import SETS, read_set
from .folder import BrokenFileError, IncompleteError, Index, Report, Sample

__all__ = ["SETS", "BrokenFileError", "IncompleteError", "Index", "Report", "Sample", "read_set"]
