"""Exactly once on real servers, under load, while workers and servers are killed."""
