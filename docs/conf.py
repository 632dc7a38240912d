"""Builds the documentation: ``uv run sphinx-build -W docs docs/_build``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

from alignrec_pyg import __version__

project = "alignrec_pyg"
author = "The alignrec_pyg maintainers"
copyright = author
version = release = __version__

sys.path.append(str(Path(__file__).parent))  # for model_pages

extensions = [
    "model_pages",
    "myst_nb",  # pages in Markdown, too
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # MathJax beside the pages: they load nothing from other hosts
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"  # progress bars, and what other packages say of them

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_custom_sections = ["Shapes"]
maximum_signature_line_length = 130  # with types by their full names

# No inventories of other projects, which a build would have to download: their names stay plain,
# and so do aliases and type variables.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(abc|collections|inspect|pathlib)\..*"),
    ("py:.*", r"(huggingface_hub|narwhals|np|numpy|pandas|PIL|scipy|torch|torch_geometric)\..*"),
    ("py:.*", r"sklearn\..*"),
    ("py:class", r"Adj|ArrayLike|Tensor|.*\.\w+T|alignrec_pyg\..*\._\w+"),  # and private bases
]

html_theme = "furo"
html_title = f"alignrec_pyg {__version__}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False


def skip_tuple_fields(
    app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out the fields of named tuples: their docstrings say only which number they are."""
    return True if str(value.__doc__).startswith("Alias for field number") else None


def plain_signature(
    app: Sphinx,
    what: str,
    name: str,
    value: Any,
    options: Any,
    signature: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """Writes ``ArrayLike`` for the two lines that it stands for, and ``{}`` for a factory of it."""
    if signature is None:
        return None
    signature = signature.replace(stringify_annotation(ArrayLike, "smart"), "ArrayLike")
    return signature.replace("<factory>", "{}"), returned


def accessible(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Mends what axe-core finds in pages of Sphinx and Furo.

    Captions of the navigation are headings without a level, arguments of a signature are
    descriptions of nothing, and what scrolls cannot be reached by the keyboard.
    """
    navigation = str(context.get("furo_navigation_tree", ""))
    context["furo_navigation_tree"] = navigation.replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )
    body = str(context.get("body", ""))
    body = re.sub(r'<(pre(?=>)|div(?= class="(?:table-wrapper|math)))', r'<\1 tabindex="0"', body)
    context["body"] = re.sub(
        r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>",
        lambda found: f'<div class="sig-lines">\n{found[1]}</div>'.replace("dd>", "div>"),
        body,
    )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", accessible, priority=900)  # after Furo
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-skip-member", skip_tuple_fields)
