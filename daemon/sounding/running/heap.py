"""Memory that a worker's jobs free: kept for their next step, and given back to the system when they are over.

Networks make and drop the same large tensors over and over. The C library of Linux returns each to the system, which
then has to clear its pages again: up to a sixth of a job's time.
"""

import ctypes
import functools

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt's parameters, see mallopt(3)
_LARGEST = 32 << 20  # of a block that comes from the heap: the most that the library takes as a threshold
_KEPT = 1 << 30  # free bytes at the heap's end above which they are returned all the same


def keep_freed() -> bool:
    """Keep what is freed from now on; False where the C library cannot be told so."""
    library = _library()
    if library is None:
        return False
    return all(library.mallopt(*each) == 1 for each in ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _KEPT)))


def give_back() -> None:
    """Return free memory to the system, where that can be asked for."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
