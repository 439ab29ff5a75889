"""The table of coordinates: theta with all that the stochastic loops keep beside it, brought up to date lazily.

What a coordinate of theta needs beside its value (its average, the step it was last touched at, its rate, the
optimizer's slots) stands beside it in one row of a table, ``coordinates``. A mini-batch gathers the rows of the
coordinates it touches, works on them side by side, and puts them back: levels lie at random places of a table that may
be larger than any cache, and each is fetched once.

Coordinates that a mini-batch does not touch (levels that do not occur in it) cost nothing: both their average and
their penalty are brought up to date when they are touched again.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.arrays import sum_of
from streamgd.kernels.compile import compiled
from streamgd.kernels.prefetch import prefetch

#: Columns of the table of coordinates; the optimizer's slots follow.
THETA, AVERAGE, CLOCK, RATE, SLOTS = 0, 1, 2, 3, 4

#: Slots that are copied with the rest of a row, as many as most optimizers have; each other in a loop of its own.
SLOTS_WITH_ROW = 2

#: The table of places may be larger than caches too: an entry is fetched while so many before it are looked up.
PLACES_AHEAD = 32

_f8, _i8, _i4 = types.float64, types.int64, types.int32


# The average and the penalty of coordinates


@compiled(_f8(_f8, _f8, _f8, _f8))
def average_decay(since, now, average, theta):
    """The polynomial average (Shamir, Zhang 2013, eta = 3) of a coordinate that kept its value since step ``since``.

    Each step t does ``average += 4 / (t + 3) * (theta - average)``; the product over the steps from ``since`` to
    ``now`` telescopes.
    """
    kept = since * (since + 1.0) * (since + 2.0) * (since + 3.0)
    return theta + (average - theta) * (kept / (now * (now + 1.0) * (now + 2.0) * (now + 3.0)))


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _f8))
def bring_average_up(theta, average, clock, now):
    for k in range(theta.shape[0]):
        average[k] = average_decay(clock[k], now, average[k], theta[k])


@compiled(_f8(_f8, _f8, _f8, _f8))
def shrink(theta, rate, l1, l2):
    """The penalty's own step: ``argmin_b (b - theta)^2 / (2 rate) + l1 |b| + l2 / 2 b^2``."""
    threshold = rate * l1
    if theta > threshold:
        return (theta - threshold) / (1.0 + rate * l2)
    if theta < -threshold:
        return (theta + threshold) / (1.0 + rate * l2)
    return 0.0


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _f8, _f8, _f8[::1]))
def renew(theta, rate, taken, steps, l1, l2):
    """Bring theta up to date where the penalty of all steps is one: ``taken`` is what is in it, as a gradient.

    Theta is ``shrink(theta + rate * taken)`` by the penalty of ``steps`` steps; ``l2`` is one number a coordinate.
    Coordinates that no step has touched have a rate of 0, and stay.
    """
    for k in range(theta.shape[0]):
        if rate[k] > 0.0:
            free = theta[k] + rate[k] * taken[k]
            theta[k] = shrink(free, rate[k] * steps, l1, l2[k])
            taken[k] = (free - theta[k]) / rate[k]


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _f8[::1]))
def note_penalty(free, theta, rate, taken):
    """Write to ``taken`` what the penalty's step made of ``free``, as a gradient."""
    for k in range(theta.shape[0]):
        if rate[k] > 0.0:
            taken[k] = (free[k] - theta[k]) / rate[k]


@compiled(types.void(_f8[:, ::1], _i8, _f8, _f8, _f8[::1]))
def renewed_theta(coordinates, steps, l1, l2, out):
    """Theta with the penalty of so many steps, written to ``out``: see ``renew``."""
    last = coordinates.shape[0] - 1
    for j in range(last):
        out[j], rate = coordinates[j, THETA], coordinates[j, RATE]
        if rate > 0.0:
            out[j] = shrink(out[j] + rate * coordinates[j, SLOTS], rate * steps, l1, l2)
    out[last] = coordinates[last, THETA]


@compiled(types.void(_f8[::1], _i8[::1]))
def raise_to_bound(theta, bounded):
    """The projection of theta to where the coordinates ``bounded`` are not below zero; NaN stays."""
    for k in range(bounded.shape[0]):
        if theta[bounded[k]] < 0.0:
            theta[bounded[k]] = 0.0


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _i8[::1]))
def take_bound(theta, rate, taken, bounded):
    """:func:`raise_to_bound` after :func:`renew`: what the bound gives is in theta as the penalty is."""
    for k in range(bounded.shape[0]):
        j = bounded[k]
        if theta[j] < 0.0 and rate[j] > 0.0:
            taken[j] += theta[j] / rate[j]
            theta[j] = 0.0


@compiled(_f8(_f8, _f8, _f8, _f8, _i8))
def base_penalised(base, rate, l2, level_sum, n_others):
    """The coefficient of a base level after the penalty's step, which pulls it towards the ``n_others`` other levels.

    ``argmin_b (b - base)^2 / (2 rate) + l2 / 2 * sum over the other levels of (level - b)^2``.
    """
    return (base + rate * l2 * level_sum) / (1.0 + rate * l2 * n_others)


@compiled(types.void(_f8[:, ::1], _i8[:, ::1], _f8[::1]))
def sum_levels(coordinates, level_ranges, level_sums):
    """For each column whose base level has a row, the sum of the theta of its other rows."""
    for c in range(level_ranges.shape[0]):
        level_sums[c] = 0.0
        if level_ranges[c, 0] >= 0:
            for k in range(level_ranges[c, 0] + 1, level_ranges[c, 1]):
                level_sums[c] += coordinates[k, THETA]


@compiled(types.void(_f8[:, ::1], _i8, _f8[::1]))
def averaged_theta(coordinates, step, out):
    """The average brought up to ``step`` for every coordinate, written to ``out``."""
    for j in range(coordinates.shape[0]):
        out[j] = coordinates[j, AVERAGE]
        if coordinates[j, CLOCK] < step:
            out[j] = average_decay(coordinates[j, CLOCK], np.float64(step), out[j], coordinates[j, THETA])


@compiled(types.void(_f8[:, ::1], _i8, _f8, _f8, _f8[::1]))
def pay_penalty(coordinates, step, l1, l2, out):
    """Theta written to ``out``, every coordinate but the intercept shrunk by the penalty since it was last touched."""
    last = coordinates.shape[0] - 1
    for j in range(last):
        owed = coordinates[j, RATE] * (step - coordinates[j, CLOCK])
        out[j] = shrink(coordinates[j, THETA], owed, l1, l2)
    out[last] = coordinates[last, THETA]


# The coordinates that a mini-batch touches


def most_touched(n_dof: int, n_numeric: int, n_categorical: int, rows: int, entries: int) -> int:
    """Length of the list of the coordinates that so many rows and entries touch; one more is written than is read."""
    return min(n_dof, n_numeric + n_categorical * rows + entries + 1) + 1


@compiled(_i8(_i4[::1], _i8, _f8[:, ::1], _i4[::1], _i4[::1], _i8))
def list_each_once(met, n_here, coordinates, touched, place, nowhere):
    """List the coordinates ``met``, each once, and make of ``met`` their places in the list; returns its end.

    The list is ``touched``, written from ``n_here`` on, and ``place`` has where in it each coordinate stands. A -1 in
    ``met`` becomes ``nowhere``.

    ``place`` is never cleared: all leave their number there, and whoever finds its own was the last at a coordinate,
    and lists it. Whether one is listed is a toss-up to the processor, so it is added, not branched on.
    """
    row_bytes, address, address_of_place = 8 * coordinates.shape[1], coordinates.ctypes.data, place.ctypes.data
    first, last = n_here, met.shape[0] - 1
    for i in range(met.shape[0]):
        prefetch(address_of_place + 4 * np.int64(met[min(i + PLACES_AHEAD, last)]))
        if met[i] >= 0:
            place[met[i]] = -1 - i
    for i in range(met.shape[0]):
        if met[i] >= 0:
            touched[n_here] = met[i]
            n_here += np.int64(place[met[i]] == -1 - i)
    for at in range(first, n_here):
        j = np.int64(touched[at])
        place[j] = at
        prefetch(address + j * row_bytes)
        prefetch(address + j * row_bytes + row_bytes - 8)
    for i in range(met.shape[0]):
        met[i] = place[met[i]] if met[i] >= 0 else nowhere
    return n_here


@compiled(_i8(_i4[:, ::1], _i8, _i8, _i8, _f8[:, ::1], _i4[::1], _i4[::1], _i8, _i4[:, ::1], _i8[::1]))
def meet_levels(codes, start, stop, n_numeric, coordinates, touched, place, nowhere, levels, column_starts):
    """List the levels that occur in the rows ``start … stop - 1``, column by column, each once.

    Written: ``touched``, from ``n_numeric`` on; ``place``, where in it each coordinate stands; ``levels``
    (n_categorical, n_rows), that place of each row's levels, ``nowhere`` for the code -1; and ``column_starts``, where
    in ``touched`` the levels of each column begin. Returns the end of the list.
    """
    n_here = n_numeric
    for c in range(codes.shape[1]):
        column = levels[c, : stop - start]
        for i in range(start, stop):
            column[i - start] = codes[i, c]
        column_starts[c] = n_here
        n_here = list_each_once(column, n_here, coordinates, touched, place, nowhere)
    column_starts[codes.shape[1]] = n_here
    return n_here


@compiled(types.void(_f8[:, ::1], _i4[::1], _i8, _i8, _f8[:, ::1]))
def gather(coordinates, touched, first, end, here):
    """Copy the rows of the coordinates that are listed to the columns of ``here``, each to its place in the list."""
    theta, average, clock, rate = here[THETA], here[AVERAGE], here[CLOCK], here[RATE]
    n_slots = coordinates.shape[1] - SLOTS
    for k in range(first, end):
        row = coordinates[touched[k]]
        theta[k], average[k], clock[k], rate[k] = row[THETA], row[AVERAGE], row[CLOCK], row[RATE]
        if n_slots > 0:
            here[SLOTS, k] = row[SLOTS]
        if n_slots > 1:
            here[SLOTS + 1, k] = row[SLOTS + 1]
    for column in range(SLOTS + SLOTS_WITH_ROW, coordinates.shape[1]):
        slot = here[column]
        for k in range(first, end):
            slot[k] = coordinates[touched[k], column]


@compiled(types.boolean(_f8[:, ::1], _i4[::1], _i8, _i8, _f8[:, ::1]))
def put_back(coordinates, touched, first, end, here):
    """The inverse of :func:`gather`; returns whether every theta is finite."""
    theta, average, clock, rate, finite = here[THETA], here[AVERAGE], here[CLOCK], here[RATE], True
    n_slots = coordinates.shape[1] - SLOTS
    for k in range(first, end):
        row = coordinates[touched[k]]
        row[THETA], row[AVERAGE], row[CLOCK], row[RATE] = theta[k], average[k], clock[k], rate[k]
        if n_slots > 0:
            row[SLOTS] = here[SLOTS, k]
        if n_slots > 1:
            row[SLOTS + 1] = here[SLOTS + 1, k]
        finite &= np.isfinite(theta[k])
    for column in range(SLOTS + SLOTS_WITH_ROW, coordinates.shape[1]):
        slot = here[column]
        for k in range(first, end):
            coordinates[touched[k], column] = slot[k]
    return finite


# The penalty of the coordinates that a mini-batch touches


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _f8, _f8, _f8))
def penalise(theta, clock, rate, step, l1, l2):
    """The penalty's step, also of the steps missed, for coordinates that are pulled towards 0: levels, and entries."""
    for k in range(theta.shape[0]):
        theta[k] = shrink(theta[k], rate[k] * (step - clock[k]), l1, l2)


@compiled(types.void(_f8, _f8[::1], _f8[::1], _f8[::1], _f8, _f8))
def penalise_towards(centre, theta, clock, rate, step, l2):
    for k in range(theta.shape[0]):
        theta[k] = centre + (theta[k] - centre) / (1.0 + rate[k] * (step - clock[k]) * l2)


@compiled(
    types.void(_f8[:, ::1], _f8[:, ::1], _i4[::1], _i4[::1], _i8[::1], _f8[::1], _i8[:, ::1], _f8[::1], _f8, _f8, _f8)
)
def penalise_levels(
    coordinates, here, touched, place, column_starts, sums_before, level_ranges, level_sums, step, l1, l2
):  # fmt: skip
    """The penalty's step of the levels of each column: towards 0, or towards the base level and that towards them.

    ``coordinates`` still has what was before the update, ``sums_before`` the sums of the theta of the levels that are
    here; ``level_sums`` is brought up to date.
    """
    theta, clock, rate = here[THETA], here[CLOCK], here[RATE]
    for c in range(level_ranges.shape[0]):
        first, end, base = column_starts[c], column_starts[c + 1], level_ranges[c, 0]
        if base < 0:
            penalise(theta[first:end], clock[first:end], rate[first:end], step, l1, l2)
            continue
        at = np.int64(place[base])
        is_here = first <= at < end and touched[at] == base
        centre = theta[at] if is_here else coordinates[base, THETA]
        penalise_towards(centre, theta[first:end], clock[first:end], rate[first:end], step, l2)
        level_sums[c] += sum_of(theta[first:end]) - sums_before[c] - (centre - coordinates[base, THETA])
        if is_here:
            n_others = level_ranges[c, 1] - base - 1
            theta[at] = base_penalised(centre, rate[at] * (step - clock[at]), l2, level_sums[c], n_others)
