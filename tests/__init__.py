"""The tests. A package, so that helpers are imported as `tests.…` from wherever pytest was started."""
