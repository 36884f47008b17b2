"""The language: what the user says, as data. Its public names are importable from `adstream`.

Nothing here runs anything. A topology becomes the JSON of `docs/plan.md` plus a list of callables; the only
call into the core is the type of an expression (`typing_.py`).
"""
