"""Random patterns and streams, as data: a pattern is a list of calls of its API, which both sides make.

`case(seed)` is a function of the seed alone. Most patterns are what people write; some calls are made where they are refused.
"""

from __future__ import annotations

from random import Random
from typing import Any

Call = list[Any]
Case = dict[str, Any]
LETTERS = "abcd"


class _Maker:
    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._names = 0
        self.stages: list[str] = []

    def _name(self) -> str:
        self._names += 1
        return f"s{self._names}"

    def _test(self, seen: list[str]) -> dict[str, Any]:
        chance = self._chance
        roll = chance.random()
        if roll < 0.8:
            return {"t": "".join(sorted(chance.sample(LETTERS, chance.choice((1, 1, 1, 2)))))}
        if roll < 0.9 or not seen:
            return {"gt": chance.randint(1, 7)}
        return {"below": [chance.choice(seen), chance.randint(5, 25)]}

    def chain(self, depth: int, top: bool) -> list[Call]:
        chance = self._chance
        calls: list[Call] = []
        seen: list[str] = []
        n = chance.choice((1, 2, 2, 3, 3, 4)) if top else chance.choice((1, 2, 2))
        for i in range(n):
            negated = i > 0 and chance.random() < 0.2
            if negated:
                how = chance.choice(("not_next", "not_followed_by", "not_followed_by"))
            else:
                how = "begin" if i == 0 else chance.choice(("next", "followed_by", "followed_by", "followed_by_any"))
            group = not negated and depth > 0 and chance.random() < 0.2
            if group:
                calls.append([how, self.chain(depth - 1, False)])
            else:
                name = self._name()
                calls.append([how, name])
                if top:
                    self.stages.append(name)
                seen.append(name)
                if chance.random() < 0.95:
                    calls.append(["where", self._test(seen)])
                    if chance.random() < 0.15:
                        calls.append([chance.choice(("where", "or_where")), self._test(seen)])
            if not negated or chance.random() < 0.05:
                calls += self._quantifier(seen, group)
            if chance.random() < 0.12:
                calls.append(["within_previous", chance.randint(1, 6)])
            if chance.random() < (0.7 if negated and i == n - 1 else 0.15):
                calls.append(["within", chance.randint(3, 14)])
        return calls

    def _quantifier(self, seen: list[str], group: bool) -> list[Call]:
        chance = self._chance
        calls: list[Call] = []
        roll = chance.random()
        window = chance.randint(1, 6) if chance.random() < 0.1 else None
        looping = False
        if roll < 0.45:
            pass
        elif roll < 0.65:
            calls.append(["one_or_more", None, None, window])
            looping = True
        elif roll < 0.75:
            calls.append(["times", chance.randint(1, 3), None, window])
        elif roll < 0.87:
            low = chance.randint(0, 2)
            calls.append(["times", low, low + chance.randint(0, 2), window])
        else:
            calls.append(["times_or_more", chance.randint(1, 2), None, window])
            looping = True
        if calls and chance.random() < 0.4:
            calls.append([chance.choice(("consecutive", "allow_combinations"))])
        if calls and not group and chance.random() < 0.2:
            calls.append(["greedy"])
        if looping and chance.random() < 0.25:
            calls.append(["until", self._test(seen if not group else [])])
        if chance.random() < 0.25:
            calls.append(["optional"])
        if chance.random() < 0.03:
            calls.append([chance.choice(("greedy", "optional", "consecutive"))])
        return calls


def case(seed: int) -> Case:
    chance = Random(seed)
    maker = _Maker(chance)
    calls = maker.chain(chance.choice((0, 0, 1, 1, 2)), True)
    if chance.random() < 0.35 and not any(call[0] == "within" for call in calls):
        calls.append(["within", chance.randint(3, 14)])
    skip: list[str] = [chance.choice(("no", "no", "to_next", "past_last", "to_first", "to_last"))]
    if skip[0] in ("to_first", "to_last"):
        skip.append(chance.choice(maker.stages) if maker.stages and chance.random() < 0.95 else "nobody")
    keys = chance.choice(("k", "k", "kl"))
    bound = chance.choice((0, 0, 1, 3))
    events, now = [], 1
    for _ in range(chance.randint(4, 14)):
        now += chance.choice((0, 1, 1, 1, 2, 5))
        ts = max(1, now - chance.choice((0, 0, 0, 1, 4)))
        events.append([chance.choice(keys), ts, chance.choice("abcdabcdx"), chance.randint(1, 9)])
    if chance.random() < 0.5:  # what still waits comes out
        events += [[key, now + 40 + i, "x", 0] for i, key in enumerate(keys * 2)]
    made = {"calls": calls, "skip": skip, "bound": bound, "events": events}
    # Events of one time in order of v; the clock of processing time is the largest time so far, and goes on by `rest`.
    if chance.random() < 0.15:
        made["sorted"] = True
    if chance.random() < 0.25:
        made |= {"time": "processing", "bound": 0, "rest": chance.choice((0, 1, 3, 30))}
    return made
