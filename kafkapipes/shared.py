"""A number that processes share: what one sets, the others see, whichever way they were started."""

from typing import Any

import numpy as np
import torch


class SharedNumber:
    """An integer in shared memory.

    It is shared with processes that get it by a fork, or while multiprocessing starts them. Pickled in any other way it
    is copied.

    >>> number = SharedNumber(3)
    >>> number.value += 1
    >>> number.value
    4
    """

    def __init__(self, value: int) -> None:
        self._hold(torch.tensor([value]))

    @property
    def value(self) -> int:
        """The number; several times cheaper to look at than the tensor that holds it."""
        return int(self._view[0])

    @value.setter
    def value(self, value: int) -> None:
        self._view[0] = value

    def _hold(self, tensor: torch.Tensor) -> None:
        self._tensor: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
        self._view: np.ndarray = self._tensor.numpy()

    def __getstate__(self) -> dict[str, Any]:
        return {"tensor": self._tensor}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._hold(state["tensor"])
