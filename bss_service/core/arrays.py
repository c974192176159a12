"""Names for the array types that the mathematics takes and returns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
UInt16 = NDArray[np.uint16]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
UInt8 = NDArray[np.uint8]
