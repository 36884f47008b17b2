"""The demo's view."""

from collections import Counter
from io import StringIO

from rich.console import Console

from adstream.cli.look import Seen, _reasons


def test_reasons_are_shown_as_they_are():
    """A terminal's highlighter takes `d:de` for an address, and markup takes brackets for a style."""
    out = StringIO()
    seen = Seen(dead=Counter({"bad_field:device_id": 3, "odd[bold]": 1}))
    Console(file=out, force_terminal=True, color_system="truecolor", width=80).print(_reasons(seen, 6))
    assert "3  bad_field:device_id" in out.getvalue()
    assert "1  odd[bold]" in out.getvalue()
    assert "\x1b" not in out.getvalue()
