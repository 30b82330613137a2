"""Search the convolutions of PyTorch's CPU library, oneDNN, for kernels that write beyond their buffers.

    python benchmarks/cpu_kernels.py [--isa NAME ...] [--threads N ...] [--quick] [--output FILE]

Runs forward and backward passes over a grid of convolutions in processes in which glibc checks the heap, and
compares the gradients with those in double precision. A convolution is a fault if it kills its process, also when it
runs alone, or if its gradient is wrong. The exit status is 1 if there are faults.

The checks need ``libc_malloc_debug.so.0`` (glibc 2.34 or later). ``AVX2`` limits oneDNN to the kernels of a processor
without AVX-512 (``ONEDNN_MAX_CPU_ISA``); ``DEFAULT`` allows all kernels of the processor.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

HEAP_CHECKS = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
"""Environment variables with which glibc aborts when it frees a block whose end was overwritten."""

CHANNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 20)
OUT_CHANNELS = (1, 2, 4, 8, 16)
KERNELS = ((1, 1), (3, 3), (5, 5), (1, 3), (3, 1), (1, 7), (7, 1))
PIECES = ((3, 3), (5, 3), (7, 3))
"""Kernels of the depthwise convolutions whose gradients ``search_spaces/depthwise.py`` combines."""
REPETITIONS = 6
"""Passes of each convolution; several, because damage is only detected when a block is freed, maybe a pass later."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest accepted error of a gradient, relative to its largest element."""


@dataclass(frozen=True)
class Convolution:
    """One convolution: its sizes, layout and dtype."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: int
    in_channels: int
    out_channels: int
    groups: int
    pixels: tuple[int, int]
    channels_last: bool
    dtype: str

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return (
            f"{self.kernel[0]}x{self.kernel[1]}, stride {self.stride[0]}x{self.stride[1]}, dilation {self.dilation}, "
            f"{self.in_channels} -> {self.out_channels} channels in {self.groups} groups, "
            f"{self.pixels[0]}x{self.pixels[1]} pixels, {layout}, {self.dtype}"
        )


def grid(quick: bool = False) -> list[Convolution]:
    """Return the convolutions to run; ``quick`` keeps the 1×1 ones on one image size."""
    found = []
    layouts = list(product(((8, 8),) if quick else ((7, 7), (8, 8)), (True, False), TOLERANCE))
    for kernel, stride, channels in product(KERNELS, ((1, 1), (2, 2)), CHANNELS):
        for pixels, channels_last, dtype in layouts:
            rest = (pixels, channels_last, dtype)
            outs = OUT_CHANNELS if kernel == (1, 1) else OUT_CHANNELS[1::2]
            found += [Convolution(kernel, stride, 1, channels, out, 1, *rest) for out in outs]
            if channels % 2 == 0:
                found.append(Convolution(kernel, stride, 1, channels, channels, 2, *rest))
            if kernel[0] == kernel[1] and channels > 1:
                found += [
                    Convolution(kernel, stride, dilation, channels, channels, channels, *rest) for dilation in (1, 2)
                ]
    narrow = list(product(((7, 3), (8, 4)), (True, False), TOLERANCE))
    for kernel, stride, channels, rest in product(PIECES, ((1, 1), (2, 1), (2, 2)), CHANNELS[1:], layouts + narrow):
        found.append(Convolution(kernel, stride, 1, channels, channels, channels, *rest))
    found = list(dict.fromkeys(found))
    return [one for one in found if one.kernel == (1, 1)] if quick else found


def faults(convolutions: Sequence[Convolution], isa: str, threads: int) -> Iterator[tuple[Convolution, str]]:
    """Yield the convolutions that fail, each with a description of the failure.

    Args:
        convolutions: Convolutions to run.
        isa: Value of ``ONEDNN_MAX_CPU_ISA``.
        threads: Number of PyTorch threads.
    """
    first = 0
    while first < len(convolutions):
        done, wrong, died = _run(convolutions[first:], isa, threads)
        yield from ((convolutions[first + index], f"gradient off by {error:.1e}") for index, error in wrong)
        if not died:
            return
        # The heap may have been damaged by the convolution before the one that died.
        for index in (first + done, first + done - 1):
            if index >= first and (reason := _run([convolutions[index]], isa, threads)[2]):
                yield convolutions[index], reason
                break
        first += done + 1


def _run(convolutions: Sequence[Convolution], isa: str, threads: int) -> tuple[int, list[tuple[int, float]], str]:
    """Return the number of convolutions that ran, index and error of the wrong ones, and why the process died."""
    environment = os.environ | HEAP_CHECKS | {"ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": str(threads)}
    given = "\n".join(json.dumps(asdict(one)) for one in convolutions)
    ended = subprocess.run(
        [sys.executable, __file__, "--child"], input=given, env=environment, capture_output=True, text=True, check=False
    )
    errors = [float(line) for line in ended.stdout.splitlines()]
    wrong = [(index, error) for index, error in enumerate(errors) if not error <= TOLERANCE[convolutions[index].dtype]]
    last_words = [line for line in ended.stderr.splitlines() if line][-1:] or [f"signal {-ended.returncode}"]
    return len(errors), wrong, last_words[0] if ended.returncode else ""


def _child() -> None:
    """Run the convolutions given on standard input, and print the error of the gradients of each."""
    for line in sys.stdin:
        print(_error(Convolution(**json.loads(line))), flush=True)


def _error(one: Convolution) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, one.in_channels, *one.pixels, generator=generator)
    weight = torch.randn(one.out_channels, one.in_channels // one.groups, *one.kernel, generator=generator)
    padding = [one.dilation * (side // 2) for side in one.kernel]

    def gradients(dtype: torch.dtype, memory_format: torch.memory_format) -> list[torch.Tensor]:
        given = [
            tensor.to(getattr(torch, one.dtype)).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
            for tensor in (image, weight)
        ]
        output = torch.nn.functional.conv2d(*given, None, one.stride, padding, one.dilation, one.groups)
        return list(torch.autograd.grad(output.sum() + output.square().sum(), given))

    layout = torch.channels_last if one.channels_last else torch.contiguous_format
    for _ in range(REPETITIONS):
        found = gradients(getattr(torch, one.dtype), layout)
    exact = gradients(torch.float64, torch.contiguous_format)
    return max(
        ((mine.double() - right).abs().max() / right.abs().max()).item()
        for mine, right in zip(found, exact, strict=True)
    )


def main() -> None:
    """Run the grid on each kernel set and number of threads, and print the faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", nargs="+", default=["AVX2", "DEFAULT"], help="kernel sets of oneDNN")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="1×1 convolutions alone")
    parser.add_argument("--output", type=Path, help="CSV file with a row a fault")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child()
        return
    convolutions, rows = grid(options.quick), []
    for isa, threads in product(options.isa, options.threads):
        before = len(rows)
        for one, reason in faults(convolutions, isa, threads):
            rows.append({"isa": isa, "threads": threads, **asdict(one), "reason": reason})
            print(f"  {one}: {reason}", flush=True)
        print(f"{isa}, {threads} threads: {len(rows) - before} of {len(convolutions)} convolutions failed", flush=True)
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["isa", "threads", *asdict(convolutions[0]), "reason"])
            writer.writeheader()
            writer.writerows(rows)
    sys.exit(bool(rows))


if __name__ == "__main__":
    main()
