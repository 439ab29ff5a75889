"""Where the values of Arrow's columns are, by the structs of its C data interface.

https://arrow.apache.org/docs/format/CDataInterface.html has what stands in them, in words of eight bytes each.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from streamgd.kernels.compile import compiled

# The element types that are read as they are; anything else is cast by pyarrow first.
KINDS = ("double", "float", "int64", "int32", "int16", "int8", "uint32", "uint16", "uint8", "bool")
#: What Arrow calls them in a schema; an extension type stands there as what it is stored as.
_FORMATS = "gfliscISCb"

_i8 = types.int64

# ArrowArray
_NULL_COUNT, _OFFSET, _N_BUFFERS, _N_CHILDREN, _BUFFERS, _CHILDREN, _ARRAY_WORDS = 1, 2, 3, 4, 5, 6, 10
# ArrowSchema
_FORMAT, _SCHEMA_CHILDREN, _SCHEMA_DICTIONARY, _SCHEMA_WORDS = 0, 5, 6, 9

_KIND_OF_FORMAT = np.full(256, -1)
_KIND_OF_FORMAT[np.frombuffer(_FORMATS.encode(), np.uint8)] = np.arange(len(KINDS))


@intrinsic
def pointer(typing_context, address):
    """An address held in an integer, as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@compiled(types.void(_i8, _i8, _i8[::1], _i8[:, ::1]), nogil=False)
def column_buffers(array, schema, places, found):
    """Look up where the values of some columns of a record batch are.

    Parameters
    ----------
    array, schema : int64
        Addresses of the structs ``ArrowArray`` and ``ArrowSchema`` of the batch.
    places : int64, (n_columns,)
        Of the columns in the batch.
    found : int64, (4, n_columns)
        Written: addresses of the values and of the validity bitmap, 0 where there are no nulls, the offset of the array
        in them, and the index of the type in ``KINDS``; of any other type -1.
    """
    batch = carray(pointer(array), _ARRAY_WORDS, np.int64)
    arrays = carray(pointer(batch[_CHILDREN]), batch[_N_CHILDREN], np.int64)
    of_batch = carray(pointer(schema), _SCHEMA_WORDS, np.int64)
    schemas = carray(pointer(of_batch[_SCHEMA_CHILDREN]), batch[_N_CHILDREN], np.int64)
    for column in range(places.shape[0]):
        of_column = carray(pointer(schemas[places[column]]), _SCHEMA_WORDS, np.int64)
        letters = carray(pointer(of_column[_FORMAT]), 2, np.uint8)
        # Longer formats are those of other types; with a dictionary, it is that of the codes.
        is_plain = letters[1] == 0 and of_column[_SCHEMA_DICTIONARY] == 0
        kind = _KIND_OF_FORMAT[letters[0]] if is_plain else -1
        found[:, column] = 0
        found[3, column] = kind
        if kind >= 0:
            values = carray(pointer(arrays[places[column]]), _ARRAY_WORDS, np.int64)
            buffers = carray(pointer(values[_BUFFERS]), values[_N_BUFFERS], np.int64)
            found[0, column] = buffers[1]
            found[1, column] = buffers[0] if values[_NULL_COUNT] != 0 else 0
            found[2, column] = values[_OFFSET]
