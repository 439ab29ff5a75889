"""Columns -> rows: what lies side by side in each column, turned by vectors, not number by number."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from streamgd.kernels.compile import compiled

#: Columns and rows that are turned together: as many vectors, of as many numbers.
SIDE = 4

_f4, _f8, _i8 = types.float32, types.float64, types.int64


@intrinsic
def _turn_square(typing_context, columns, column, at, rows, row, first):
    """``rows[row : row + SIDE, first : first + SIDE]`` = the transpose of as many ``columns`` from row ``at`` on.

    Nothing is checked.
    """

    def generate(context, builder, signature, arguments):
        columns, column, at, rows, row, first = arguments

        def place(kind, value, i, j):
            array = context.make_array(kind)(context, builder, value)
            found = cgutils.get_item_pointer(context, builder, kind, array, [i, j], wraparound=False)
            return builder.bitcast(found, ir.VectorType(context.get_data_type(kind.dtype), SIDE).as_pointer())

        of_columns, of_rows = signature.args[0], signature.args[3]
        places = [place(of_columns, columns, builder.add(column, column.type(k)), at) for k in range(SIDE)]
        vectors = [builder.load(each, align=of_columns.dtype.bitwidth // 8) for each in places]
        # Squares off the diagonal change places: halves, then those of each half, down to single numbers.
        side = SIDE // 2
        while side:
            left = [i if i & side == 0 else SIDE + i - side for i in range(SIDE)]
            right = [i + side if i & side == 0 else SIDE + i for i in range(SIDE)]
            for k in range(SIDE):
                if k & side == 0:
                    upper, lower = vectors[k], vectors[k + side]
                    vectors[k] = _chosen(builder, upper, lower, left)
                    vectors[k + side] = _chosen(builder, upper, lower, right)
            side //= 2
        for k, vector in enumerate(vectors):
            to = place(of_rows, rows, builder.add(row, row.type(k)), first)
            builder.store(vector, to, align=of_rows.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(columns, column, at, rows, row, first), generate


def _chosen(builder, first, second, places):
    """The vector of the elements at ``places`` of two vectors, those of the second behind those of the first."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), SIDE), places))


@compiled([types.void(feature[:, ::1], _i8, feature[:, ::1], _i8, _i8) for feature in (_f4, _f8)])
def turn(columns, count, rows, row, first):
    """``rows[row : row + count, first : first + n_columns] = columns[:, :count].T``.

    Parameters
    ----------
    columns : float32 or float64, (n_columns, count or more)
    rows : the same type, (n_rows, record length)
        Written.
    """
    n_columns = columns.shape[0]
    whole = count - count % SIDE if n_columns >= SIDE else 0
    for at in range(0, whole, SIDE):
        for column in range(0, n_columns, SIDE):
            # The last square begins early, and writes some numbers again.
            k = min(column, n_columns - SIDE)
            _turn_square(columns, k, at, rows, row + at, first + k)
    rest = rows[row + whole : row + count, first : first + n_columns]
    for column in range(n_columns):
        for i in range(rest.shape[0]):
            rest[i, column] = columns[column, whole + i]
