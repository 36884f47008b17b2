"""Jobs on the pay-per-click topics (`topics.py`), and `Auction`, which reads what `ads.ranking` keeps."""

from adstream.jobs.ads.auction import Auction

__all__ = ["Auction"]
