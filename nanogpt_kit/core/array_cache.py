"""Results that follow from an array, computed once for each: for orders, which are pure functions of their context."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

Result = TypeVar("Result")

results: dict[tuple[int, Hashable], Any] = {}  # by the identity of the array, and the key


def computed_once(array: np.ndarray, key: Hashable, compute: Callable[[], Result]) -> Result:
    """What `compute()` returned for this array and key, forgotten when the array is.

    The array itself is meant, not one of equal values. It must not change. The key names all else that the result
    depends on.
    """
    entry = id(array), key
    if entry not in results:
        results[entry] = compute()
        weakref.finalize(array, results.pop, entry, None)
    result: Result = results[entry]
    return result
