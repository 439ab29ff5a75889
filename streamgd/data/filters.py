"""Which rows to use: the condition of ``--where``, as a mask of a record batch and as a choice of row groups.

    text ── ast ──> terms, each with its type ──> an Arrow expression (the mask), and which row groups may match

The text has Python's grammar and is read by Python's parser, but only a short list of constructs is accepted and
nothing is run as Python. A comparison with null is null, division by zero is null, and only what is true is used.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.source import Bounds, Manifest, logical_type
from streamgd.errors import ConfigError, DataError, StreamgdError, did_you_mean

BoundsOf = Callable[[str], Bounds | None]

_EXAMPLE = "Example: month <= 6 and carrier in ['AA', 'UA'] and `air time` is not None"
_ALLOWED = "comparisons, and, or, not, in [..], is None and + - * / %"
# A quoted text, which is left alone, or a name in backticks, which becomes an identifier of the same length.
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]+)`""")
_STAND_IN = "ꙮ"
_SQL = re.compile(r"\b(AND|OR|NOT|IN|IS|NULL)\b")
_SINGLE_EQUALS = re.compile(r"(?<![=!<>])=(?!=)")
_DOUBLE, _WHOLE, _TRUTH = pa.float64(), pa.int64(), pa.bool_()
_NULL = pa.scalar(None, _TRUTH)

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_EXCHANGED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
# Whether any value between the bounds compares so with the constant; nothing follows for "!=", as NaN is not in bounds.
_POSSIBLE: dict[str, Callable[[Bounds, Any], bool]] = {
    "==": lambda bounds, constant: bounds.minimum <= constant <= bounds.maximum,
    "<": lambda bounds, constant: bounds.minimum < constant,
    "<=": lambda bounds, constant: bounds.minimum <= constant,
    ">": lambda bounds, constant: bounds.maximum > constant,
    ">=": lambda bounds, constant: bounds.maximum >= constant,
}


@dataclass(frozen=True)
class Where:
    """A condition on rows. ``columns`` are those it reads; ``expression`` is the same for Arrow's own scanners."""

    text: str
    schema: pa.Schema = field(repr=False)
    columns: list[str]
    expression: pc.Expression = field(repr=False)
    possible: Callable[[BoundsOf], bool] = field(repr=False)

    def mask(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """True where a row is to be used, shape ``(rows,)``; False where the condition is null.

        Raises
        ------
        DataError
            The arithmetic of whole numbers overflows.
        """
        try:
            result = _evaluate(self.expression, self.columns, self.schema, batch)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"--where: {_short(self.text)}: {error}. Write one of the numbers as 2.0 instead of 2."
            ) from error
        mask: npt.NDArray[np.bool_] = result.fill_null(False).to_numpy()
        return mask

    def surviving_row_groups(self, manifest: Manifest, file_index: int) -> set[int]:
        """Indices of the row groups of a file that may hold rows to use, judged by the footers alone."""
        count = manifest.files[file_index].metadata.num_row_groups
        return {index for index in range(count) if self.may_hold(manifest, file_index, index)}

    def may_hold(self, manifest: Manifest, file_index: int, index: int) -> bool:
        """Whether one row group may hold rows to use, judged by its footer alone."""
        return self.possible(lambda column: manifest.bounds(file_index, index, column))

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_where, (self.text, self.schema)  # ``possible`` is made of functions, which are not pickled


def parse_where(text: str, schema: pa.Schema) -> Where:
    """The condition that a text states of columns of a schema.

    Accepted are comparisons (also chained), ``and``, ``or``, ``not``, ``in [..]``, ``not in [..]``, ``is None``,
    ``is not None``, ``+ - * / %`` with Python's meaning of ``%``, numbers, texts, True and False, and names of columns,
    in backticks where they are not identifiers. A constant is taken as the type of the column it is compared with:
    dates and times are written as ISO texts (a time without zone is in the column's zone).

    Parameters
    ----------
    text : str
        For example ``"month <= 6 and carrier in ['AA', 'UA']"``.
    schema : pyarrow.Schema
        Of the data, partition columns included (``Manifest.schema``).

    Raises
    ------
    ConfigError
        A syntax error or another construct; an unknown column; types that do not go together; no column at all.

    >>> where = parse_where("0 < x <= 2", pa.schema([("x", pa.float32())]))
    >>> where.mask(pa.record_batch({"x": pa.array([0.0, 1.0, None, 2.0], pa.float32())}))
    array([False,  True, False,  True])
    """
    return _Parser(text, schema).parse()


def _always(_: BoundsOf) -> bool:
    return True


@dataclass(frozen=True)
class _Term:
    """A part of the condition.

    ``literal`` is the value of a constant as it was written and ``scalar`` that in the term's type; ``column`` is the
    name of a bare column; else they are None. ``possible`` is False only if it can't be true in a row group.
    """

    type: pa.DataType
    expression: pc.Expression
    literal: Any = None
    scalar: pa.Scalar | None = None
    column: str | None = None
    possible: Callable[[BoundsOf], bool] = _always

    def cast(self, arrow_type: pa.DataType) -> _Term:
        if self.type == arrow_type:
            return self
        if self.scalar is not None:
            return _constant(self.literal, self.scalar.cast(arrow_type, safe=False))
        return replace(self, type=arrow_type, expression=self.expression.cast(arrow_type, safe=False))


def _constant(value: Any, scalar: pa.Scalar) -> _Term:
    return _Term(scalar.type, pc.scalar(scalar), value, scalar)


class _Parser:
    """One pass over the syntax tree, building terms from the leaves up."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self.text = text
        self.schema = schema
        self.types = {column.name: logical_type(column.type) for column in schema}
        self.columns: list[str] = []
        self.in_backticks: dict[str, str] = {}

    def parse(self) -> Where:
        # Blanks for line breaks, and none in front, so that the text may be laid out freely.
        one_line = re.sub(r"\s", " ", _QUOTED.sub(self._stand_in, self.text))
        self.source = one_line.lstrip()
        self.shift = len(one_line) - len(self.source)
        try:
            tree = ast.parse(self.source, mode="eval").body
            condition = self._truth(tree)
            if not self.columns:
                raise self._refusal(tree, "names no column")
            _evaluate(condition.expression, self.columns, self.schema, self.schema.empty_table())
        except StreamgdError:  # some are a ValueError
            raise
        except (SyntaxError, ValueError, RecursionError, MemoryError, pa.ArrowNotImplementedError) as error:
            raise self._syntax_error(error) from error
        return Where(self.text, self.schema, self.columns, condition.expression, condition.possible)

    # The tree.

    def _term(self, node: ast.expr) -> _Term:
        match node:
            case ast.Constant(value=value):
                return self._literal(node, value)
            case ast.Name(id=name):
                return self._column(node, self.in_backticks.get(name, name))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._negative(node, self._number(operand))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _Term(_TRUTH, pc.invert(self._truth(operand).expression))
            case ast.BoolOp(op=op, values=parts):
                return _combine(isinstance(op, ast.And), [self._truth(part) for part in parts])
            case ast.Compare(left=left, ops=ops, comparators=rights):
                pairs = zip([left, *rights[:-1]], ops, rights, strict=True)
                return _combine(True, [self._compare(*pair) for pair in pairs])
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Mod() as op, right=right):
                return _arithmetic(op, self._number(left), self._number(right))
            case _:
                raise self._refusal(node, f"is not allowed; {_ALLOWED} are")

    def _literal(self, node: ast.expr, value: Any) -> _Term:
        if value is None:
            raise self._refusal(node, "can only follow 'is' or 'is not'")
        if not isinstance(value, bool | int | float | str):
            raise self._refusal(node, "is neither a number nor a text")
        if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
            if abs(value) > sys.float_info.max:
                raise self._refusal(node, "is too large a number")
            value = float(value)
        return _constant(value, pa.scalar(value))

    def _column(self, node: ast.expr, name: str) -> _Term:
        if name not in self.types:
            raise self._refusal(
                node, f"is not a column. {did_you_mean(name, list(self.types))} Quote texts, as in 'AA'"
            )
        if name not in self.columns:
            self.columns.append(name)
        term = _Term(self.types[name], pc.field(name), column=name)
        if term.type == _TRUTH:
            return replace(term, possible=lambda bounds_of: _may_hold("==", bounds_of(name), True))
        return term.cast(_DOUBLE) if pa.types.is_float16(term.type) else term  # Arrow computes little with halves

    def _truth(self, node: ast.expr) -> _Term:
        term = self._term(node)
        if term.type != _TRUTH:
            raise self._refusal(node, f"is {_kind(term.type)}, not a condition")
        return term

    def _number(self, node: ast.expr) -> _Term:
        term = self._term(node)
        if _kind(term.type) != "a number":
            raise self._refusal(node, f"is {_kind(term.type)}, not a number")
        return term.cast(_common_type([term.type, _WHOLE]))

    def _negative(self, node: ast.expr, term: _Term) -> _Term:
        if term.literal is not None:
            return self._literal(node, -term.literal)
        return _Term(term.type, pc.negate_checked(term.expression))

    def _compare(self, left_node: ast.expr, op: ast.cmpop, right_node: ast.expr) -> _Term:
        left = self._term(left_node)
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right_node, ast.Constant) and right_node.value is None):
                raise self._refusal(right_node, "cannot follow 'is': only None can")
            return _null_check(left, isinstance(op, ast.Is))
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left_node, left, right_node, isinstance(op, ast.In))
        right = self._term(right_node)
        symbol = _COMPARISONS[type(op)]
        if right.literal is None and left.literal is not None:  # the constant to the right
            left_node, left, right_node, right = right_node, right, left_node, left
            symbol = _EXCHANGED[symbol]
        left, right = self._alike(left_node, left, [(right_node, right)])
        return _Term(
            _TRUTH,
            _COMPARE[symbol](left.expression, right.expression),
            possible=_bounded(symbol, left, [right]),
        )

    def _membership(self, node: ast.expr, term: _Term, list_node: ast.expr, wanted: bool) -> _Term:
        if not isinstance(list_node, ast.List | ast.Tuple | ast.Set):
            raise self._refusal(list_node, "cannot follow 'in': write a list, as in ['AA', 'UA']")
        members = [(member, self._term(member)) for member in list_node.elts]
        for member_node, member in members:
            if member.literal is None:
                raise self._refusal(member_node, "is not a constant, as the members of a list must be")
        term, *constants = self._alike(node, term, members)
        value, members_array = term.expression, pa.array([constant.scalar for constant in constants], term.type)
        if pa.types.is_floating(term.type):  # Arrow looks values up by their bits, of which -0.0 has others than 0.0
            zero = pa.scalar(0.0, term.type)
            value, members_array = pc.add(value, pc.scalar(zero)), pc.add(members_array, zero)
        found = pc.is_in(value, value_set=members_array)
        # Arrow says False for null; like every comparison it is null here, so that "not in" drops it as well.
        checked = pc.if_else(pc.is_null(term.expression), pc.scalar(_NULL), found if wanted else pc.invert(found))
        return _Term(_TRUTH, checked, possible=_bounded("==" if wanted else "!=", term, constants))

    def _alike(self, node: ast.expr, term: _Term, others: list[tuple[ast.expr, _Term]]) -> list[_Term]:
        """A term and those it is compared with, brought to one type; constants take the term's type if they fit."""
        terms = [term]
        for other_node, other in others:
            if term.literal is None and other.literal is not None:
                other = self._literal_as(other_node, other.literal, term.type)
            if _kind(term.type).startswith("of type"):
                raise self._refusal(node, f"is {_kind(term.type)}, which can only be tested with 'is None'")
            if _kind(term.type) != _kind(other.type):
                raise self._refusal(
                    node, f"is {_kind(term.type)}, but {_short(self._segment(other_node))} is {_kind(other.type)}"
                )
            terms.append(other)
        if _kind(term.type) != "a number":
            return terms
        common = _common_type([each.type for each in terms])
        return [each.cast(common) for each in terms]

    def _literal_as(self, node: ast.expr, value: Any, arrow_type: pa.DataType) -> _Term:
        """A constant in the type of the column it is compared with; in its own type if that cannot hold it."""
        kind = _kind(arrow_type)
        if isinstance(value, str) and kind == "a date or time":
            return _constant(value, self._moment(node, value, arrow_type))
        if isinstance(value, bool) and kind == "a number":
            value = int(value)
        elif not isinstance(value, bool) and value in (0, 1) and kind == "true or false":
            value = bool(value)
        if kind == "a number" and not isinstance(value, str):
            try:
                exact = Decimal(repr(value)) if pa.types.is_decimal(arrow_type) else value
                scalar = pa.scalar(exact, arrow_type)
                fits = scalar.as_py() == value or not pa.types.is_integer(arrow_type)
            except (ValueError, OverflowError, pa.ArrowException):
                fits = False
            if fits and (not pa.types.is_floating(arrow_type) or math.isfinite(scalar.as_py())):
                return _constant(value, scalar)
        return self._literal(node, value)

    def _moment(self, node: ast.expr, text: str, arrow_type: pa.DataType) -> pa.Scalar:
        zone = arrow_type.tz if pa.types.is_timestamp(arrow_type) else None
        try:
            if pa.types.is_time(arrow_type):
                # Python's times know no nanoseconds, and Arrow reads no times.
                moment = pa.scalar(f"1970-01-01T{text}").cast(pa.timestamp(arrow_type.unit))
                return pa.scalar(moment.value, arrow_type)
            try:
                return pa.scalar(text).cast(arrow_type)
            except pa.ArrowInvalid:
                if zone is None:
                    raise
                return pc.assume_timezone(pa.scalar(text).cast(pa.timestamp(arrow_type.unit)), zone)
        except (ValueError, pa.ArrowNotImplementedError) as error:  # ArrowInvalid is a ValueError
            raise self._refusal(
                node, f"cannot be read as {arrow_type}: write 2015-01-31, 2015-01-31T14:30:00 or 14:30:00"
            ) from error

    # Texts and messages.

    def _stand_in(self, match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        identifier = f"{_STAND_IN}{len(self.in_backticks)}".ljust(len(match[0]), "_")
        self.in_backticks[identifier] = match[1]
        return identifier

    def _segment(self, node: ast.expr) -> str:
        start, end = self._position(node.col_offset), self._position(node.end_col_offset or 0)
        return self.text[start:end]

    def _position(self, offset_bytes: int) -> int:
        return len(self.source.encode()[:offset_bytes].decode()) + self.shift

    def _refusal(self, node: ast.expr, reason: str) -> ConfigError:
        position = self._position(node.col_offset) + 1
        return ConfigError(f"--where: {_short(self._segment(node))} at position {position} {reason}. {_EXAMPLE}")

    def _syntax_error(self, error: Exception) -> ConfigError:
        bare = _QUOTED.sub("", self.text)
        if _SINGLE_EQUALS.search(bare):
            hint = "Write == for equality."
        elif _SQL.search(bare):
            hint = "Write and, or, not, in, is None in lower case."
        else:
            hint = "Put names that are no identifiers in `backticks` and texts in 'quotes'."
        where = ""
        if isinstance(error, SyntaxError) and error.offset:
            position = min(error.offset + self.shift, len(self.text))
            where = f" at position {position}, {self.text[position - 1 : position + 19]!r}"
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "too deeply nested"
        return ConfigError(
            f"--where: {_short(self.text)} cannot be read{where}: {' '.join(reason.split())}. {hint} {_EXAMPLE}"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _kind(arrow_type: pa.DataType) -> str:
    """What the values of a type are, in words; only values of one kind are compared."""
    types = pa.types
    if types.is_integer(arrow_type) or types.is_floating(arrow_type) or types.is_decimal(arrow_type):
        return "a number"
    if types.is_string(arrow_type):
        return "a text"
    if types.is_boolean(arrow_type):
        return "true or false"
    if types.is_temporal(arrow_type):
        return "a date or time"
    return f"of type {arrow_type}"


def _common_type(types: list[pa.DataType]) -> pa.DataType:
    """The type in which numbers meet: their own if it is one, int64 for whole numbers, else float64."""
    if all(each == types[0] for each in types):
        return types[0]
    return _WHOLE if all(pa.types.is_integer(each) and each != pa.uint64() for each in types) else _DOUBLE


def _combine(conjunction: bool, terms: list[_Term]) -> _Term:
    """All of (or any of) some conditions, by the three-valued logic of nulls."""
    function, judge = (pc.and_kleene, all) if conjunction else (pc.or_kleene, any)
    return _Term(
        _TRUTH,
        reduce(function, [term.expression for term in terms]),
        possible=lambda bounds_of: judge(term.possible(bounds_of) for term in terms),
    )


def _null_check(term: _Term, wanted: bool) -> _Term:
    def possible(bounds_of: BoundsOf) -> bool:
        bounds = bounds_of(term.column) if term.column is not None else None
        if bounds is None:
            return True
        return bounds.null_count > 0 if wanted else bounds.minimum is not None

    check = pc.is_null if wanted else pc.is_valid
    return _Term(_TRUTH, check(term.expression), possible=possible)


def _bounded(symbol: str, term: _Term, constants: list[_Term]) -> Callable[[BoundsOf], bool]:
    """Whether a column can compare so with any of the constants in a row group of given bounds."""
    column = term.column
    if column is None or symbol == "!=":
        return _always
    scalars = [constant.scalar for constant in constants if constant.scalar is not None]
    if len(scalars) < len(constants):
        return _always
    # Nanoseconds are beyond Python: it cuts those of times of day, and refuses those of moments.
    if any(scalar.type == pa.time64("ns") for scalar in scalars):
        return _always
    try:
        values = [scalar.as_py() for scalar in scalars]
    except ValueError:
        return _always
    return lambda bounds_of: any(_may_hold(symbol, bounds_of(column), value) for value in values)


def _may_hold(symbol: str, bounds: Bounds | None, constant: Any) -> bool:
    if bounds is None:
        return True
    return bounds.minimum is not None and _POSSIBLE[symbol](bounds, constant)


def _arithmetic(op: ast.operator, left: _Term, right: _Term) -> _Term:
    """Whole numbers stay whole, except under ``/``; they overflow with an error, never silently."""
    common = _DOUBLE if isinstance(op, ast.Div) else _common_type([left.type, right.type])
    a, b = left.cast(common).expression, right.cast(common).expression
    match op:
        case ast.Add():
            result = pc.add_checked(a, b)
        case ast.Sub():
            result = pc.subtract_checked(a, b)
        case ast.Mult():
            result = pc.multiply_checked(a, b)
        case ast.Div():
            result = pc.divide(a, _null_if_zero(b, common))
        case _:
            result = _modulo(a, _null_if_zero(b, common), common)
    return _Term(common, result)


def _null_if_zero(divisor: pc.Expression, arrow_type: pa.DataType) -> pc.Expression:
    null = pc.scalar(pa.scalar(None, arrow_type))
    return pc.if_else(pc.equal(divisor, pc.scalar(pa.scalar(0, arrow_type))), null, divisor)


def _modulo(left: pc.Expression, right: pc.Expression, arrow_type: pa.DataType) -> pc.Expression:
    """Python's remainder, which has the sign of the divisor."""
    zero = pc.scalar(pa.scalar(0, arrow_type))
    quotient = pc.divide(left, right)  # that of whole numbers is truncated already
    if arrow_type == _DOUBLE:
        quotient = pc.trunc(quotient)
    remainder = pc.subtract(left, pc.multiply(quotient, right))
    other_sign = pc.not_equal(pc.less(remainder, zero), pc.less(right, zero))
    wrong = pc.and_kleene(other_sign, pc.not_equal(remainder, zero))
    return pc.if_else(wrong, pc.add(remainder, right), remainder)


def _evaluate(
    expression: pc.Expression, columns: list[str], schema: pa.Schema, rows: pa.RecordBatch | pa.Table
) -> pa.ChunkedArray:
    from pyarrow import acero  # it takes time, and few runs choose rows

    # Dictionaries and other ways to store text become text first.
    arrays = {name: rows.column(name).cast(logical_type(schema.field(name).type)) for name in columns}
    source = acero.Declaration("table_source", acero.TableSourceNodeOptions(pa.table(arrays)))
    project = acero.Declaration("project", acero.ProjectNodeOptions([expression], ["mask"]))
    # One thread keeps the order of the rows.
    return acero.Declaration.from_sequence([source, project]).to_table(use_threads=False).column("mask")
