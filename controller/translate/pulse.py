"""Which chassis give a sign of life, from what they answer to the cluster's question.

OVN's own: whoever raises NB_Global.nb_cfg asks, northd copies it to SB_Global.nb_cfg, and each
ovn-controller writes the number to its Chassis_Private row once its vswitchd has confirmed every
flow up to then (ovn-sb(5)). So an answer says that both work and that the databases can be reached.
Only numbers are compared, and only with the clock of whoever watches: no two clocks have to agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Signs:
    """What the southbound database says: the last question, and each chassis's last answer."""

    asked: int = 0
    answered: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What was seen so far. `behind`: since when [s] a chassis owes an answer.

    A chassis that is down stays so until another answer of it is seen: that its last one is as new
    as the question says nothing, while nobody asks.
    """

    signs: Signs = field(default_factory=Signs)
    behind: Mapping[str, float] = field(default_factory=dict)
    down: frozenset[str] = frozenset()

    def seen(self, signs: Signs, now: float, patience_s: float) -> Pulse:
        """The next state; `now` in seconds of a clock that only goes forward."""
        behind: dict[str, float] = {}
        down = set()
        for chassis, answer in signs.answered.items():
            before = self.signs.answered.get(chassis)
            moved = before is not None and answer != before
            if chassis in self.down and not moved:
                down.add(chassis)
                continue
            if answer >= signs.asked:
                continue
            behind[chassis] = now if moved else self.behind.get(chassis, now)
            if now - behind[chassis] > patience_s:
                down.add(chassis)
        return replace(self, signs=signs, behind=behind, down=frozenset(down))
