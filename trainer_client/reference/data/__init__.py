"""Multi-modal data sets: two built in, any prepared `.npz`, and corrupted copies of either."""

from .corrupt import Corruption, corrupt
from .dataset import Data, Dataset
from .sources import load

__all__ = ["Corruption", "Data", "Dataset", "corrupt", "load"]
