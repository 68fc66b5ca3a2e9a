"""Sphinx: Markdown pages by myst-parser, the API page by autodoc, nothing from the network."""

import inspect

project = "kafkapipes"
author = "the kafkapipes authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "kafkapipes"
myst_heading_anchors = 3

default_role = "code"  # docstrings write `code` as Markdown does
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute described in its class is not described a second time


def as_written(app, what, name, obj, options, lines):
    """After napoleon: a property's sentence with a colon names no type, the asterisk of [B, *shape] is no emphasis."""
    text = [*inspect.getdoc(obj).splitlines(), ""] if what == "property" else lines
    lines[:] = [line.replace("*", r"\*") for line in text]


def setup(app):
    app.connect("autodoc-process-docstring", as_written, priority=600)  # napoleon has 500
