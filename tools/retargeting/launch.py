"""Warp kernels run over torch tensors."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from types import ModuleType
from typing import Any

import torch
import warp as wp


def ragged(lists: list[list[int]]) -> tuple[list[int], list[int]]:
    """Lists of different lengths as starts, one more than there are lists, and all their entries."""
    return [0, *accumulate(len(entries) for entries in lists)], [entry for entries in lists for entry in entries]


@cache
def declared(kernel: wp.Kernel) -> tuple[Any, ...]:
    """Types of the entries of a kernel's array arguments, None for others."""
    return tuple(getattr(argument.type, "dtype", None) for argument in kernel.adj.args)


class Launcher:
    """Runs kernels over torch tensors of one device, on its stream."""

    def __init__(self, device: torch.device) -> None:
        wp.config.log_level = wp.LOG_WARNING
        try:
            wp.init()
        except OSError as error:
            raise OSError(f"{error}: compiled kernels are kept there; set WARP_CACHE_PATH to a folder that can be written to"
                          ) from None
        self.device, self._torch_device = wp.device_from_torch(device), device

    def __call__(self, kernel: wp.Kernel, dim: int | tuple[int, ...], *arguments: Any) -> None:
        """Run a kernel; tensors become arrays of the types that it declares."""
        inputs = [wp.from_torch(a, dtype=t, return_ctype=True) if isinstance(a, torch.Tensor) else a
                  for a, t in zip(arguments, declared(kernel), strict=True)]
        stream = wp.stream_from_torch(self._torch_device) if self.device.is_cuda else None
        wp.launch(kernel, dim=dim, inputs=inputs, device=self.device, stream=stream)

    def load(self, module: ModuleType) -> None:
        """Compile the kernels of a module, or load them where that was done before, now and not at first use."""
        wp.load_module(module, device=self.device)

    def struct(self, kind: Any, /, **fields: Any) -> Any:
        """A struct of tables; tensors become arrays of the types that it declares."""
        out = kind()
        for name, value in fields.items():
            if isinstance(value, torch.Tensor):
                value = wp.from_torch(value, dtype=kind.vars[name].type.dtype)
            setattr(out, name, value)
        return out
