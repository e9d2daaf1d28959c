"""How the pages of `docs/` become a site: Sphinx, MyST and furo. Nothing is fetched from elsewhere, and nobody is counted.

    make docs       # docs/_build/index.html; every warning is an error

The pages are plain Markdown, so that they can be read where the code is; no settings of theirs are here.
"""

project = "wellfit"
author = "The wellfit authors"
copyright = "The wellfit authors, Apache-2.0"
html_title = "wellfit"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True  # what is referred to must be there

myst_heading_anchors = 3  # page.md#a-heading, as on a git host

html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
