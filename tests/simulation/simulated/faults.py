"""What goes wrong, and when: drawn from one seeded generator, at the calls that cross a port.

A crash ends the actor that was calling (a control loop, a step's process), before or after the
effect. A lost answer looks the same to the caller whether or not the effect happened. A preemption
lets somebody else act in the middle.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from primum.domain.errors import Unavailable
from simulated.auditor import Violation

# Somebody acts in the middle of somebody who acts in the middle: enough for every race of two.
DEPTH_MAX = 2


class SimulatedCrash(BaseException):
    """The calling process dies here. Not an ``Exception``: nothing may catch it and go on."""


class Chaos:
    """Draws faults.

    Args:
        rng: The one source of chance of a simulation.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.active = False
        self.count = 0
        self.others: Callable[[], None] = lambda: None
        self.racing: Callable[[], object] = lambda: (
            False
        )  # Whether somebody is close behind: races are wanted.
        self._depth = 0

    def happens(self, chance: float) -> bool:
        """Whether something of this chance happens now; never while faults are off."""
        return self.active and self.rng.random() < chance

    def fault(self, chance: float) -> bool:
        """The same for a fault, which is counted."""
        found = self.happens(chance)
        self.count += found
        return found

    def around(self, call: Callable[[], object], *, writes: bool) -> object:
        """Make a call with whatever goes wrong around it."""
        if self._depth < DEPTH_MAX and self.happens(0.3 if self.racing() else 0.04):
            self._depth += 1
            try:
                self.others()
            finally:
                self._depth -= 1
        if self.fault(0.004):
            raise Unavailable("simulated: the request was lost")
        if writes and self.fault(0.006):
            raise SimulatedCrash("before an effect")
        answer = call()
        if writes and self.fault(0.02):
            raise SimulatedCrash("after an effect")
        if self.fault(0.004):
            raise Unavailable("simulated: the answer was lost")
        return answer


def witnessed(witness: Callable[..., None], *seen: object) -> None:
    """Tell a witness; its own mistakes must not look like faults of what is under test."""
    try:
        witness(*seen)
    except Exception as error:
        raise Violation(f"the auditor could not follow: {error!r}") from error


class Disturbed:
    """A port with faults around its methods, and a witness that sees every call that took effect.

    Args:
        port: The real port.
        chaos: Draws the faults.
        writes: Names of the methods that have an effect.
        witness: Called with method, arguments and answer after the effect, before any fault that
            follows.
        fearless: Methods that never raise, as their port promises.
    """

    def __init__(
        self,
        port: object,
        chaos: Chaos,
        *,
        writes: frozenset[str],
        witness: Callable[..., None] | None = None,
        fearless: frozenset[str] = frozenset(),
    ) -> None:
        self._port, self._chaos, self._writes = port, chaos, writes
        self._witness, self._fearless = witness, fearless

    def __getattr__(self, name: str) -> object:
        method = getattr(self._port, name)
        if not callable(method) or name in self._fearless:
            return method

        def call(*args: object, **kwargs: object) -> object:
            def effect() -> object:
                answer = method(*args, **kwargs)
                if self._witness is not None:
                    witnessed(self._witness, name, args, kwargs, answer)
                return answer

            return self._chaos.around(effect, writes=name in self._writes)

        return call
