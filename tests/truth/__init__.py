"""What the jobs must answer, computed a second time by code that shares nothing with them."""
