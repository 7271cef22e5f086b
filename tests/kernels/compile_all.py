"""Compiles for a graphics card, without one, every kernel that the trial launches: python -m
tests.kernels.compile_all ARCHITECTURE DTYPE. Prints one line a kernel."""

from __future__ import annotations

import sys
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from illava.ops.kernels import trial

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


def type_of(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def launched(dtype: torch.dtype) -> dict[str, ASTSource]:
    """The kernels of a trial by name, types and constants, recorded instead of launched."""
    found = {}

    def record(self, *args, grid, warmup, **kwargs):
        given = dict(zip(self.arg_names, args, strict=False)) | kwargs
        constant = {
            name: given[name] for name, p in zip(self.arg_names, self.params, strict=True) if p.is_constexpr
        }
        types = {name: "constexpr" if name in constant else type_of(given[name]) for name in self.arg_names}
        places = {(self.arg_names.index(name),): value for name, value in constant.items()}
        key = f"{self.fn.__name__} {' '.join(map(str, types.values()))} {[*constant.values()]}"
        found[key] = ASTSource(fn=self, signature=types, constexprs=places)

    with mock.patch.object(JITFunction, "run", record):
        # Nothing was computed, so everything differs.
        trial.differences(torch.device("cpu"), dtype)
    return found


def main() -> None:
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    for name, source in launched(getattr(torch, sys.argv[2])).items():
        compiled = triton.compile(source, target=target)
        print(name.split()[0], len(compiled.asm["cubin"]), compiled.metadata.shared)


if __name__ == "__main__":
    main()
