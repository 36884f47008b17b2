"""A reference of the engine's semantics in plain Python, one record at a time.

It shares no code with the engine: it reads the plan as JSON and nothing else. Slow, small, and meant to be read.

- `text.py`      what a JSON payload means for a declared field; murmur2; keys
- `expression.py` SQL's nulls, errors as values, the types of results
- `interpret.py` operators, tasks, lanes, commit points
"""

from tests.oracle.interpret import Answer, Dead, Oracle, Written, interpret

__all__ = ["Answer", "Dead", "Oracle", "Written", "interpret"]
