"""Sphinx: Markdown by MyST, the look of Furo."""

from importlib.metadata import version as version_of

project = "celery_durable"
author = "the celery_durable authors"
project_copyright = "2026, the celery_durable authors"
release = version = version_of("celery-durable")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"celery_durable {release}"
