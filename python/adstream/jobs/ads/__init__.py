"""Jobs on the pay-per-click topics: `ad-events`, `campaign-events`, `conversion-events`."""
