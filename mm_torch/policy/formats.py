"""The file formats of an exported module: how each is written, loaded back, compared and timed."""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mm_torch.policy.modules import PolicyFileError

Call = Callable[..., Sequence[Tensor]]
TIMED_CALLS = 200


@dataclass(frozen=True)
class Signature:
    """What an exported module takes and gives, in order.

    ======== ===============================================================================================
    inputs   argument names
    outputs  names of the tensors returned
    sizes    argument to the name of its first size, which is free: N (worlds) or F (frames)
    ======== ===============================================================================================
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: dict[str, str]


@dataclass(frozen=True)
class Format:
    """A file format: its suffix, the packages it needs, how a module is written to it and read from it."""

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[nn.Module, tuple[Tensor, ...], Signature, Path], None]
    load: Callable[[Path], Call]


def _write_torchscript(module: nn.Module, example: tuple[Tensor, ...], signature: Signature, path: Path) -> None:
    torch.jit.trace(module, example, check_trace=False).save(str(path))


def _load_torchscript(path: Path) -> Call:
    return _as_sequence(torch.jit.load(str(path), map_location="cpu"))


def _program(
    module: nn.Module, example: tuple[Tensor, ...], signature: Signature
) -> tuple[torch.export.ExportedProgram, dict[str, dict[int, torch.export.Dim]]]:
    free = {name: torch.export.Dim(name, min=1, max=2**20) for name in set(signature.sizes.values())}
    shapes = {name: {0: free[signature.sizes[name]]} for name in signature.inputs}
    return torch.export.export(module, example, dynamic_shapes=shapes), shapes


def _write_pt2(module: nn.Module, example: tuple[Tensor, ...], signature: Signature, path: Path) -> None:
    torch.export.save(_program(module, example, signature)[0], path)


def _load_pt2(path: Path) -> Call:
    return _as_sequence(torch.export.load(path).module())


def _write_onnx(module: nn.Module, example: tuple[Tensor, ...], signature: Signature, path: Path) -> None:
    program, shapes = _program(module, example, signature)
    torch.onnx.export(
        program, (), str(path), input_names=list(signature.inputs), output_names=list(signature.outputs),
        dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False,
    )


def _load_onnx(path: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def call(*inputs: Tensor) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return call


def _as_sequence(module: Callable[..., Tensor | Sequence[Tensor]]) -> Call:
    def call(*inputs: Tensor) -> Sequence[Tensor]:
        out = module(*inputs)
        return [out] if isinstance(out, Tensor) else out

    return call


FORMATS: dict[str, Format] = {
    "torchscript": Format(".pt", (), _write_torchscript, _load_torchscript),
    "pt2": Format(".pt2", (), _write_pt2, _load_pt2),
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
}


def read_formats(text: str) -> tuple[str, ...]:
    """Format names from a comma-separated list.

    Raises:
        PolicyFileError: an unknown name, none at all, or a format whose packages are not installed.
    """
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    for name in names:
        if name not in FORMATS:
            raise PolicyFileError(f"formats={text}: unknown format {name!r}; choose from {', '.join(FORMATS)}")
        missing = [p for p in FORMATS[name].packages if importlib.util.find_spec(p) is None]
        if missing:
            raise PolicyFileError(
                f"formats={text}: {name} needs {', '.join(missing)}; install the extra: pip install 'mm_torch[{name}]'"
            )
    if not names:
        raise PolicyFileError(f"formats={text}: name at least one of {', '.join(FORMATS)}")
    return names


def write_module(
    name: str, module: nn.Module, example: tuple[Tensor, ...], signature: Signature, path: Path
) -> Call:
    """Write a module in a format and load it back.

    Args:
        name: of the format.
        module: to write, in evaluation mode.
        example: arguments of a call, with at least two rows each.
        signature: names of arguments and results.
        path: file to write.

    Returns:
        What was loaded.
    """
    with _quiet(), torch.no_grad():
        FORMATS[name].write(module, example, signature, path)
        return FORMATS[name].load(path)


def largest_difference(call: Call, cases: Iterable[tuple[tuple[Tensor, ...], Sequence[Tensor]]]) -> float:
    """Largest difference between what a loaded module gives and what it must give.

    Differences are absolute up to a magnitude of 1 and relative above it (raw observations hold forces of kilonewtons).

    Args:
        call: loaded module.
        cases: arguments and expected results.

    Returns:
        The largest difference; infinite where one of the two is not finite.
    """
    worst = 0.0
    for inputs, wanted in cases:
        for given, right in zip(call(*inputs), wanted, strict=True):
            difference = ((given - right).abs() / right.abs().clamp_min(1.0)).max().item()
            worst = max(worst, difference if difference == difference else float("inf"))
    return worst


@torch.no_grad()
def milliseconds(call: Call, example: tuple[Tensor, ...]) -> float:
    """Median time of a call in ms, on the threads that torch has."""
    times = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        call(*example)
        times.append(time.perf_counter() - start)
    return round(1e3 * sorted(times)[TIMED_CALLS // 2], 4)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters say about their own future from the user."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(noisy, levels, strict=True):
                logger.setLevel(level)
