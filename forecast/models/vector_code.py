"""Vector code of LLVM for loops of the CPU that numba's vectoriser does not manage; it fits any processor.

All is float32, 16 numbers at a time. Changes here renew what users keep of compiled loops only when their own file
changes as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

LANES = 16
LOG2E = 1.4426950408889634
FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
POWERS = (1.535336188e-4, 1.339887440e-3, 9.618437358e-3, 5.550332471e-2, 2.402264791e-1, 6.931472029e-1, 1.0)
"""2^x on [-1/2, 1/2], from the highest power down (Cephes; relative error 2e-7)"""
TAIL = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""of the error function, from the highest power down (Abramowitz and Stegun 7.1.26; error 1.5e-7)"""

intrinsic: Any = extending.intrinsic  # its hints do not know that the caller leaves out the first argument


class Code:
    """LLVM code of one loop under way: vectors of `lanes` floats."""

    def __init__(self, builder: Any, lanes: int = LANES) -> None:
        self.builder, self.kind = builder, ir.VectorType(FLOAT, lanes)

    def place(self, pointer: Any, index: Any, offset: int = 0) -> Any:
        """Address of element index + offset."""
        return self.builder.gep(pointer, [self.builder.add(index, LONG(offset))])

    def load(self, pointer: Any, index: Any, offset: int = 0) -> Any:
        """A vector from there."""
        where = self.builder.bitcast(self.place(pointer, index, offset), self.kind.as_pointer())
        return self.builder.load(where, align=4)

    def store(self, value: Any, pointer: Any, index: Any, offset: int = 0) -> None:
        """A vector to there."""
        where = self.builder.bitcast(self.place(pointer, index, offset), self.kind.as_pointer())
        self.builder.store(value, where, align=4)

    def spread(self, pointer: Any, index: Any, offset: int = 0) -> Any:
        """A vector whose every lane is the number there."""
        return self.fill(self.builder.load(self.place(pointer, index, offset), align=4))

    def number(self, value: float) -> Any:
        """A constant in every lane."""
        return ir.Constant(self.kind, [value] * self.kind.count)

    def call(self, name: str, *values: Any) -> Any:
        """An intrinsic of LLVM on vectors: fma, rint, fabs."""
        kind = ir.FunctionType(self.kind, [self.kind] * len(values))
        name = f"llvm.{name}.v{self.kind.count}f32"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), values)

    def higher(self, x: Any, y: Any) -> Any:
        """The higher of two, y where x is no number; one instruction, which LLVM's maxnum is not."""
        return self.builder.select(self.builder.fcmp_ordered(">", x, y), x, y)

    def power_of_two(self, x: Any) -> Any:
        """2^x; what is below -126 counts as -126."""
        b, lanes = self.builder, self.kind.count
        x = self.higher(x, self.number(-126.0))
        whole = self.call("rint", x)
        part, value = b.fsub(x, whole), self.number(POWERS[0])
        for factor in POWERS[1:]:
            value = self.call("fma", value, part, self.number(factor))
        ints = ir.VectorType(INT, lanes)
        exponent = b.shl(b.fptosi(whole, ints), ir.Constant(ints, [23] * lanes))
        return b.bitcast(b.add(b.bitcast(value, ints), exponent), self.kind)

    def fill(self, value: Any) -> Any:
        """A vector whose every lane is a number."""
        one = self.builder.insert_element(ir.Constant(self.kind, ir.Undefined), value, INT(0))
        zeros = ir.Constant(ir.VectorType(INT, self.kind.count), [0] * self.kind.count)
        return self.builder.shuffle_vector(one, ir.Constant(self.kind, ir.Undefined), zeros)

    def total(self, x: Any) -> Any:
        """The sum of all lanes, a number."""
        kind, name = ir.FunctionType(FLOAT, [FLOAT, self.kind]), f"llvm.vector.reduce.fadd.v{self.kind.count}f32"
        add = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(add, [FLOAT(0.0), x], fastmath=("reassoc",))

    def normal(self, x: Any) -> tuple[Any, Any]:
        """Distribution function of the standard normal at x, and exp(-x^2 / 2)."""
        b, one = self.builder, self.number(1.0)
        bell = self.power_of_two(b.fmul(b.fmul(x, x), self.number(-0.5 * LOG2E)))
        t = b.fdiv(one, self.call("fma", self.call("fabs", x), self.number(0.3275911 / 2**0.5), one))
        value = self.number(TAIL[0])
        for factor in TAIL[1:]:
            value = self.call("fma", value, t, self.number(factor))
        tail = b.fmul(b.fmul(value, t), b.fmul(bell, self.number(0.5)))
        return b.select(b.fcmp_ordered("<", x, self.number(0.0)), tail, b.fsub(one, tail)), bell

    def sums(self, count: int, pointer: Any) -> list[Any]:
        """Registers that hold `count` vectors from the array on."""
        slots = []
        for d in range(count):
            slot = cgutils.alloca_once(self.builder, self.kind)
            self.builder.store(self.load(pointer, LONG(0), d * self.kind.count), slot)
            slots.append(slot)
        return slots


def function(emit: Callable[..., None], arrays: int) -> Any:
    """A function of `arrays` flat arrays and a count, whose code `emit` writes."""

    def typed(typing: Any, *arguments: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit(builder, *pointers(context, builder, signature, values, tuple(range(arrays))), values[arrays])
            return context.get_dummy_value()

        return types.void(*arguments), lower

    return typed


@intrinsic
def dot(typing: Any, x: Any, i: Any, y: Any, j: Any, like: Any) -> Any:
    """dot(x, i, y, j, like): sum over d of x[i + d] * y[j + d], of flat arrays, as many as `like` has elements."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        code, (a, b) = Code(builder, like.count), pointers(context, builder, signature, values, (0, 2))
        return code.total(builder.fmul(code.load(a, values[1]), code.load(b, values[3])))

    return types.float32(x, i, y, j, like), lower


@intrinsic
def add_scaled(typing: Any, out: Any, i: Any, factor: Any, x: Any, j: Any, like: Any) -> Any:
    """add_scaled(out, i, factor, x, j, like): out[i + d] += factor * x[j + d], of flat arrays."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        code, (a, b) = Code(builder, like.count), pointers(context, builder, signature, values, (0, 3))
        more = code.call("fma", code.fill(values[2]), code.load(b, values[4]), code.load(a, values[1]))
        code.store(more, a, values[1])
        return context.get_dummy_value()

    return types.void(out, i, types.float32, x, j, like), lower


def pointers(context: Any, builder: Any, signature: Any, values: Any, which: tuple[int, ...]) -> list[Any]:
    """Where the numbers of some arguments lie, which are arrays."""
    return [context.make_array(signature.args[k])(context, builder, values[k]).data for k in which]
