"""Sphinx's settings for the site that build.py makes."""

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "trainium-recipes"
extensions = ["myst_parser"]
myst_heading_anchors = 4  # as on a Git host: links to headings work on both
html_theme = "furo"
html_title = "trainium-recipes"
html_copy_source = False
html_show_search_summary = False  # would be fetched, which a browser refuses to pages that are opened as files
html_show_sphinx = False
language = "en"


def setup(app: Sphinx) -> None:
    """Show the pictures of mermaid as text: a Git host draws them, but here that needs a script from the network."""
    app.add_lexer("mermaid", TextLexer)
