"""The function for all formats: files whole or not at all, and one clear line where it cannot be done."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import onnx
import pytest
from exported_models import model

from streamgd.errors import AccessError, ConfigError, NoInputError, StreamgdError
from streamgd.exports.export import export


def test_a_run_is_exported_by_its_path(tmp_path: Path) -> None:
    model().save(tmp_path / "model.safetensors")

    exported = export(tmp_path, "onnx", tmp_path / "model.onnx")

    assert onnx.load(tmp_path / "model.onnx") == exported
    assert export(tmp_path / "model.safetensors", "json") == model().to_json()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="--to: expected onnx, sklearn, json, found 'pmml'"):
        export(model(), "pmml")


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no run or model"):
        export(tmp_path / "none", "json")


@pytest.mark.parametrize("to", ["onnx", "sklearn"])
def test_a_package_that_is_missing_is_named_with_its_extra(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == to else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    with pytest.raises(ConfigError, match=rf"needs the package '{to}'. Install it: pip install 'streamgd\[{to}\]'"):
        export(model(), to)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StreamgdError, match="cannot write") as caught:
        export(model(), "json", tmp_path / "none" / "model.json")
    assert not isinstance(caught.value, AccessError)
