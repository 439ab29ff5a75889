"""``streamgd export``: the file, and one line where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from exported_models import model

from streamgd.cli import main


@pytest.mark.parametrize("to", ["onnx", "sklearn", "json"])
def test_the_file_is_written_and_told(to: str, tmp_path: Path) -> None:
    model().save(tmp_path / "model.safetensors")
    out = tmp_path / f"model.{to}"

    result = CliRunner().invoke(main, ["export", str(tmp_path), "--to", to, "--out", str(out), "--json"])

    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["to"], facts["out"], facts["bytes"]) == (to, str(out), out.stat().st_size)


def test_what_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    model(nulls="drop").save(tmp_path / "model.safetensors")

    result = CliRunner().invoke(main, ["export", str(tmp_path), "--to", "sklearn", "--out", str(tmp_path / "out")])

    assert result.exit_code == 78
    assert result.stderr.startswith("streamgd: --to sklearn: with --nulls drop rows with a null have no prediction")
    assert not (tmp_path / "out").exists()
