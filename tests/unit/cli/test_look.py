"""The demo's view."""

from collections import Counter
from io import StringIO

import pytest
from rich.console import Console
from rich.panel import Panel

from adstream.cli.look import Campaign, Seen, _Campaigns, _reasons


def test_reasons_are_shown_as_they_are():
    """A terminal's highlighter takes `d:de` for an address, and markup takes brackets for a style."""
    out = StringIO()
    seen = Seen(dead=Counter({"bad_field:device_id": 3, "odd[bold]": 1}))
    Console(file=out, force_terminal=True, color_system="truecolor", width=80).print(_reasons(seen, 6))
    assert "3  bad_field:device_id" in out.getvalue()
    assert "1  odd[bold]" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(("width", "all_of_it"), [(80, False), (110, True)])
def test_what_is_shown_of_campaigns_is_shown_whole(width: int, all_of_it: bool):
    out = StringIO()
    campaigns = (Campaign("campaign_000", 123_456, 11_060, 2_784, 718_714, 1_384_117_274),)
    Console(file=out, width=width).print(Panel(_Campaigns(campaigns)))
    assert "…" not in out.getvalue()
    assert "campaign_000" in out.getvalue()
    assert "13,841,172.74" in out.getvalue()
    assert ("2,784" in out.getvalue()) is all_of_it
