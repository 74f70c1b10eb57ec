"""``cache``: a look after the feature caches; one module per sub-command."""

from __future__ import annotations

from cyclopts import App

from pipeline.cli.cache.export import export
from pipeline.cli.cache.listing import list_caches
from pipeline.cli.cache.prune import prune
from pipeline.cli.cache.show import show
from pipeline.cli.cache.verify import verify

app = App(
    name="cache",
    help="""See what is in the feature cache, check it, make it smaller, take features out of it.

    A cache is named by its fingerprint, the digest of all that its features depend on; a few digits are enough.
    """,
)
app.command(list_caches, name="list", sort_key=1)
app.command(show, sort_key=2)
app.command(verify, sort_key=3)
app.command(prune, sort_key=4)
app.command(export, sort_key=5)
