"""The model as JSON: ``Model.to_json`` says what each field means."""

from __future__ import annotations

import json
from typing import Any

from streamgd.model import Model


def exported(model: Model) -> dict[str, Any]:
    """Plain values; see :meth:`streamgd.Model.to_json`."""
    return model.to_json()


def to_bytes(fields: dict[str, Any]) -> bytes:
    """As UTF-8 text, numbers with all their digits."""
    return (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
