"""Sphinx: Markdown by MyST, the look of Furo."""

from importlib.metadata import version as version_of

project = "celery_durable"
author = "the celery_durable authors"
project_copyright = "2026, the celery_durable authors"
release = version = version_of("celery-durable")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True
# Annotations name classes of others, and some that no page tells of; what docstrings refer to is looked for.
nitpick_ignore_regex = [("py:class", ".*"), ("py:.*", r"(?!celery_durable\.).*")]

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"celery_durable {release}"
