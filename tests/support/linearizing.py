"""Checks a history of concurrent ledger commands against the sequential model.

A history is linearizable if every command can be given one moment between its call and its answer,
so that the commands, taken one after another at these moments, give the answers that were given.
For commands that wrote, the chain says in which order; the others have to fit in between.

The model is naive on purpose, and shares no code with the ledger: one account with room for so many
reservations of the same size.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

WRITES = {"reserve": ("Reserved", "Denied"), "expose": ("Exposed",), "charge": ("Charged",)}


@dataclass(frozen=True)
class Command:
    """One command of a history.

    Args:
        began: When it was called; any clock that all callers share.
        ended: When it was answered.
        verb: ``reserve``, ``expose``, ``charge`` or ``give_back``.
        name: The reservation.
        argument: The access and the fence of an exposure.
        code: The answer's result code.
        seq: The answer's sequence number; 0 for none.
    """

    began: int
    ended: int
    verb: str
    name: str
    argument: tuple = ()
    code: str = ""
    seq: int = 0


@dataclass
class Held:
    """A reservation of the model."""

    state: str
    fence: int
    seqs: dict = field(default_factory=dict)  # by verb, and by access for exposures


class Model:
    """One account, one command after another."""

    def __init__(self, room):
        self.room = room
        self.held = {}

    def answer(self, command):
        """(code, seq of the earlier entry) of a command now; seq is None for one that writes."""
        held = self.held.get(command.name)
        if command.verb == "reserve":
            if held is None:
                return ("Accepted" if self.room else "OverBudget"), None
            denied = held.state == "Denied"
            return ("OverBudget" if denied else "Repeated"), held.seqs["reserve"]
        if held is None:
            return "ReservationUnknown", 0
        if command.verb == "expose":
            return self._exposed(held, command)
        return self._resolved(held, command)

    @staticmethod
    def _resolved(held, command):
        if command.verb in held.seqs:
            return "Repeated", held.seqs[command.verb]
        if held.state not in ("Reserved", "Exposed"):
            return "AlreadyResolved", 0
        wanted, otherwise = {
            "charge": ("Exposed", "NotExposed"),
            "give_back": ("Reserved", "AlreadyExposed"),
        }[command.verb]
        return ("Accepted", None) if held.state == wanted else (otherwise, 0)

    @staticmethod
    def _exposed(held, command):
        access, fence = command.argument
        if fence != held.fence:
            return "FenceStale", 0
        if held.state not in ("Reserved", "Exposed"):
            return "AlreadyResolved", 0
        if access in held.seqs:
            return "Repeated", held.seqs[access]
        return "Accepted", None

    def write(self, command, seq):
        """Do what a command writes."""
        code, earlier = self.answer(command)
        assert earlier is None, f"entry {seq} must come from a command that writes; found {command}"
        if command.verb == "reserve":
            granted = code == "Accepted"
            self.room -= granted
            self.held[command.name] = Held("Reserved" if granted else "Denied", seq)
            self.held[command.name].seqs["reserve"] = seq
            return
        held = self.held[command.name]
        held.seqs[command.argument[0] if command.verb == "expose" else command.verb] = seq
        if command.verb == "give_back":
            self.room += 1
        held.state = {"expose": "Exposed", "charge": "Charged", "give_back": "Returned"}[
            command.verb
        ]


def faults(history, chain, *, room, first=2):
    """Why a history is not linearizable; nothing where it is.

    Args:
        history: Commands of all callers, in any order.
        chain: ``(seq, kind, reservation)`` of every entry they wrote, in order.
        room: How many reservations the account has room for.
        first: Sequence number of the first of these entries.
    """
    if [seq for seq, _, _ in chain] != list(range(first, first + len(chain))):
        return ["entries must be numbered without a gap"]
    claims = {}
    for command in history:
        if command.code == "Accepted" or (command.verb, command.code) == ("reserve", "OverBudget"):
            claims.setdefault(command.seq, []).append(command)
    found = [
        f"entry {seq} must be there; found it only in answers"
        for seq in claims
        if not first <= seq < first + len(chain)
    ]
    model, spans, after = Model(room), [], []
    answers = [_answers(model, history)]
    for seq, kind, name in chain:
        commands = claims.get(seq, [])
        if not commands:
            return [*found, f"entry {seq} must be some command's; found none that was answered so"]
        writer = commands[0]
        if any(
            (c.verb, c.name, c.code) != (writer.verb, writer.name, writer.code) for c in commands
        ) or (len(commands) > 1 and writer.code == "Accepted"):
            return [*found, f"entry {seq} must be one command's; found it in several answers"]
        code, earlier = model.answer(writer)
        if earlier is not None or code != writer.code or name != writer.name:
            return [*found, f"entry {seq} must be {code} of the model; found {writer.code}"]
        if kind not in WRITES.get(writer.verb, ("Returned",)):
            return [*found, f"entry {seq} must be what {writer.verb} writes; found {kind}"]
        model.write(writer, seq)
        # Of several equal denials any may have written: between the first call and first answer.
        spans.append((min(c.began for c in commands), min(c.ended for c in commands)))
        after.append(seq)
        answers.append(_answers(model, history))
    found += _real_time(spans, after)
    return found + _readers(history, answers, spans, first)


def _answers(model, history):
    """What the model would answer now to every command that is asked in a history."""
    asked = {(c.verb, c.name, c.argument): c for c in history}
    return {key: model.answer(command) for key, command in asked.items()}


def _real_time(spans, seqs):
    """Entries whose command was called after another's answer, and yet come before it."""
    found, earliest_end, owner = [], None, None
    for (began, ended), seq in reversed(list(zip(spans, seqs, strict=True))):
        if earliest_end is not None and earliest_end < began:
            found.append(f"entry {seq} must come after {owner}, which was answered before its call")
        if earliest_end is None or ended < earliest_end:
            earliest_end, owner = ended, seq
    return found


def _readers(history, answers, spans, first):
    """Commands that wrote nothing and fit nowhere between the entries.

    Each takes the earliest place that is left for it: a later one could only be in the way of
    others.
    """
    found, placed = [], []  # (answered, place), by answer
    by_end = sorted((ended, first + place) for place, (_, ended) in enumerate(spans))
    by_begin = sorted((began, first + place) for place, (began, _) in enumerate(spans))
    best_end = _running(by_end, max)
    best_begin = _running(by_begin[::-1], min)[::-1]
    ends, begins = [e for e, _ in by_end], [b for b, _ in by_begin]
    for command in sorted(history, key=lambda c: c.began):
        if _wrote(command):
            continue
        low, high = first - 1, first - 1 + len(spans)
        place = bisect.bisect_left(ends, command.began)
        if place:
            low = max(low, best_end[place - 1])
        place = bisect.bisect_right(begins, command.ended)
        if place < len(begins):
            high = min(high, best_begin[place] - 1)
        low = max([low, *(spot for ended, spot in placed if ended < command.began)])
        wanted = command.code, command.seq
        key = command.verb, command.name, command.argument
        spot = next(
            (n for n in range(low, high + 1) if answers[n - first + 1][key] == wanted), None
        )
        if spot is None:
            found.append(f"{command} must be explained by the chain between {low} and {high}")
        else:
            placed.append((command.ended, spot))
    return found


def _running(pairs, choose):
    found = []
    for _, seq in pairs:
        found.append(choose(found[-1], seq) if found else seq)
    return found


def _wrote(command):
    """Whether the answer names an entry of its own; equal denials are settled by their entry."""
    return command.code in ("Accepted", "OverBudget")
