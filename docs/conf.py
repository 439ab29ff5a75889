"""The documentation: pages in Markdown, and the reference from the docstrings. ``sphinx-build -W docs OUT`` builds it.

Nothing is fetched, neither by the build nor by a reader: formulas become MathML, which browsers draw by themselves.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx

from streamgd.config import TrainConfig, option_name
from streamgd.version import version as installed_version

project = "streamgd"
release = installed_version()
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "streamgd"
html_math_renderer = "mathml"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["math.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_ivar = True
exclude_patterns = ["_build"]


def escaped(text: str | None) -> str:
    """Text that says nothing to reStructuredText but itself."""
    return re.sub(r"([|*_`\\])", r"\\\1", text or "")


def list_options(_: Sphinx, what: str, name: str, __: Any, ___: Any, lines: list[str]) -> None:
    """Write every option with type and default below the docstring of ``TrainConfig``, whose fields have help texts."""
    if what != "class" or not name.endswith("TrainConfig"):
        return
    lines += ["", ".. list-table::", "   :header-rows: 1", "   :widths: 20 20 60", ""]
    lines += ["   * - option", "     - default", "     - "]
    for field, info in TrainConfig.model_fields.items():
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("hidden"):
            continue
        default = "required" if info.default is PydanticUndefined else f"``{info.default!r}``"
        lines += [f"   * - ``{option_name(field)}``", f"     - {default}", f"     - {escaped(info.description)}"]


def leave_signature_out(_: Sphinx, what: str, name: str, *__: Any) -> tuple[str, None] | None:
    """The table of options says it better."""
    return ("", None) if what == "class" and name.endswith("TrainConfig") else None


def math(self: Any, node: nodes.math) -> None:
    """A formula within a line."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def displayed_math(self: Any, node: nodes.math_block) -> None:
    """A formula that stands alone."""
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (math, None), (displayed_math, None))
    app.connect("autodoc-process-docstring", list_options)
    app.connect("autodoc-process-signature", leave_signature_out)
