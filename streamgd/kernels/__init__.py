"""All compiled loops, one room: nothing else imports numba.

Inside of loops, arrays are copied by ``arrays.copy`` or element by element: see there.
"""
