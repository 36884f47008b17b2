"""Jobs on the pay-per-click topics (`topics.py`), and what reads what they keep in Redis: `Auction` (`ads.ranking`), `Budgets`
(`ads.budget`)."""

from adstream.jobs.ads.auction import Auction
from adstream.jobs.ads.budgets import Budgets, Standing

__all__ = ["Auction", "Budgets", "Standing"]
