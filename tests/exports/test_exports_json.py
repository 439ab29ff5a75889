"""JSON: what is said of its fields is enough to predict in plain Python."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from exported_models import model, predictions, rows

from streamgd.exports.export import export
from streamgd.model import Model


def written(by_model: Model, folder: Path) -> dict[str, Any]:
    export(by_model, "json", folder / "model.json")
    fields: dict[str, Any] = json.loads((folder / "model.json").read_bytes())
    return fields


def is_null(value: Any) -> bool:
    return value is None or value != value


def fnv_1a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def of_level(column: dict[str, Any], value: Any) -> float:
    """What a column of labels adds."""
    if "coefficients" in column:
        text = "\0" if is_null(value) else str(value)
        return float(column["coefficients"][fnv_1a(text) % len(column["coefficients"])])
    known = {each["level"]: each["coefficient"] for each in column["levels"]}
    return float(known.get(None if is_null(value) else value, column["unseen"]))


def predicted(fields: dict[str, Any], row: dict[str, Any], standardised: bool = False) -> float:
    """The prediction of a row, as ``Model.to_json`` says it is made."""
    columns = [each.get("source", each["name"]) for each in fields["numeric"] + fields["categorical"]]
    if fields["nulls"] != "impute" and any(is_null(row[name]) for name in columns):
        return math.nan
    raw = fields["standardised_intercept" if standardised else "intercept"]
    for each in fields["numeric"]:
        value = each["null"] if is_null(row[each["source"]]) else row[each["source"]]
        if each["part"] == "is_null":
            value = float(is_null(row[each["source"]]))
        if standardised:
            raw += each["standardised"] * (value - each["shift"]) / each["scale"]
        else:
            raw += each["coefficient"] * value
    raw += sum(of_level(each, row[each["name"]]) for each in fields["categorical"])
    raw += row[fields["offset"]] if fields["offset"] else 0.0
    return 1.0 / (1.0 + math.exp(-raw)) if fields["link"] == "logit" else raw


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize(
    "by_model",
    [
        model(),
        model("squared", other=False),
        model(nulls="error", null_level=False),
        model(scaled=False, offset="o"),
        model(indicator=True),
    ],
)
def test_plain_python_predicts_as_the_model(by_model: Model, standardised: bool, tmp_path: Path) -> None:
    fields = written(by_model, tmp_path)

    found = [predicted(fields, row, standardised) for row in rows().to_pylist()]

    np.testing.assert_allclose(found, predictions(by_model, rows()), rtol=1e-6, atol=1e-6)


def test_plain_python_finds_the_buckets_of_a_hashed_column(tmp_path: Path) -> None:
    by_model = model("squared")
    *others, last = by_model.encoding.categorical
    hashed = replace(others[0], buckets=8, levels=pa.array([], pa.string()), first_row=last.first_row)
    columns = replace(by_model.encoding.columns, categorical=(others[1].column, others[2].column, hashed.column))
    kept = (replace(others[1], first_row=2), replace(others[2], first_row=2 + others[1].n_rows))
    hashed = replace(hashed, first_row=2 + others[1].n_rows + others[2].n_rows)
    theta = np.random.default_rng(1).normal(size=(hashed.first_row + 9, 1))
    encoding = replace(by_model.encoding, columns=columns, categorical=(*kept, hashed))
    by_model = replace(by_model, encoding=encoding, theta=theta)
    by_model.encoding.check()

    fields = written(by_model, tmp_path)

    found = [predicted(fields, row, standardised=True) for row in rows().to_pylist()]
    np.testing.assert_allclose(found, predictions(by_model, rows()), rtol=1e-12)


def test_what_json_cannot_hold_is_null(tmp_path: Path) -> None:
    by_model = model("squared")
    scaling = replace(by_model.encoding.scaling, deviation=np.array([1e-313, 1.0]))
    by_model = replace(by_model, encoding=replace(by_model.encoding, scaling=scaling))

    fields = written(by_model, tmp_path)

    assert fields["numeric"][0]["coefficient"] is None
    assert math.isfinite(fields["numeric"][0]["standardised"])


def test_it_says_what_is_predicted() -> None:
    fields = model(classes=("no", "yes")).to_json()

    assert (fields["format"], fields["format_version"]) == ("streamgd", 1)
    assert (fields["loss"], fields["target"], fields["classes"]) == ("logistic", "y", ["no", "yes"])


@pytest.mark.parametrize(
    ("loss", "exposure", "version"),
    [("squared", None, 1), ("huber", None, 1), ("poisson", None, 2), ("squared", "years", 2), ("logistic", "years", 2)],
)
def test_rules_that_first_readers_do_not_know_are_of_another_version(
    loss: str, exposure: str | None, version: int
) -> None:
    made = model("squared")
    made = replace(made, loss_name=loss, loss_settings=(1.0,) if loss == "huber" else ())
    columns = replace(made.encoding.columns, exposure=exposure)

    fields = replace(made, encoding=replace(made.encoding, columns=columns)).to_json()

    assert (fields["format_version"], fields["exposure"]) == (version, exposure)
