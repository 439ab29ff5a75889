"""Have the processor fetch memory that is needed soon, where it cannot foresee that by itself."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from streamgd.kernels.compile import compiled

CACHE_LINE_BYTES = 64


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Begin to fetch the cache line of an address; any address may be given."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        # To be read; kept in all caches; data, not instructions.
        builder.call(function, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@compiled(types.void(types.int64, types.int64))
def prefetch_lines(begin, end):
    """:func:`prefetch` of each cache line from an address on, up to another."""
    for line in range(begin, end, CACHE_LINE_BYTES):
        prefetch(line)
