#!/usr/bin/env python3
"""Does every verdict in a log follow from its evidence, for somebody who knows only the formulas?

    python3 rollout/verify.py FOLDER|FILE ...

Knows docs/verdicts.md, docs/log.md and the standard library, and nothing of Tiltyard's code: the judge once more, from its
description. Prints where each rollout stands and how many verdicts are identical. Ends with 1 where a chain is broken
(registry/verify.py), an event does not belong where it stands, or a verdict is another one, and says where.

Decisions, states, shares, counts and words must be the same. Figures may differ by TOLERANCE, as the logarithms of two
libraries do in their last digits; where a decision hangs on less than that, a line says so. Whether a plan is a good one
is not looked at. figures.py has the formulas, and this file what is decided by them.
"""

import functools
import importlib.util
import json
import pathlib
import sys
from math import inf, isfinite, log

from figures import (
    MILLION, SEEN_MAX, WHY_REFUSED, Comparison, Output, Primary, Tally, Watch, expect, ln_e_sample_ratio, ln_e_two_sided,
    ln_mean_exp, only, plus, share_of, too_many)

ROOT = pathlib.Path(__file__).resolve().parent.parent

# How far a figure may be from the recorded one, relative to it, and how much farther for each unit that was counted: ln E is the
# small difference of sums as large as the count, and so is its error. Figures that may come to nothing are held against 1.
TOLERANCE, TOLERANCE_EACH = 1e-9, 1e-14
SIGNED = {"ln_e", "ln_m", "gain", "interval", "needed", "harm"}

BROKEN = 1_000.0  # E from which a comparison is broken
RUN_LENGTH = 1e6  # blocks between false alarms after a promotion
DAY_MS = 24 * 3600 * 1000
# What a policy that does not say otherwise asks.
POLICY = {
    "alpha_guardrails": 0.001, "alpha_primary": 0.01, "guardrails": [{"metric": "errors", "floor": 0.001}], "slices": [],
    "comparisons": [], "primary": None, "output": None, "slow_over_us": None, "entry_gates": [], "shadow_time_ms": 0,
    "min_time_ms": DAY_MS, "max_time_ms": 14 * DAY_MS, "min_units": 1_000, "gates": [], "failures_max": 20}


# --- The states ---------------------------------------------------------------------------------------------------------


class Rollout:
    """The judge of one plan. It is somewhere on a road, or has ended: then `at` is None."""

    DRAFT, VALIDATING, SHADOW, CANARY = range(4)

    def __init__(self, plan):
        only(plan, "endpoint revision arms key salt headers steps policy watched")
        only(plan.get("policy", {}), " ".join(POLICY))
        self.plan, self.steps, self.policy = plan, plan["steps"], POLICY | plan.get("policy", {})
        for step in self.steps:
            only(step, "share min_time_ms min_units gates")
        self.road = ["draft", "validating", "shadow", *({"canary": k} for k in range(len(self.steps))), "baking"]
        self.baking = self.CANARY + len(self.steps)
        guardrails, slices, primary, output = (self.policy[name] for name in ("guardrails", "slices", "primary", "output"))
        self.alpha, alpha_primary = self.policy["alpha_guardrails"], self.policy["alpha_primary"]
        # Who may roll back shares alpha.
        by_outcome, by_output = bool(primary and primary.get("harm") is not None), bool(output and output.get("roll_back"))
        alarms = len(guardrails) + by_outcome + by_output
        self.threshold = log(alarms / self.alpha)
        keys_max = SEEN_MAX // (len(guardrails) + len(slices))
        self.guardrails, self.slices = ([Watch(rule, keys_max) for rule in rules] for rules in (guardrails, slices))
        self.comparisons = [Comparison(rule, self.alpha, alpha_primary) for rule in self.policy["comparisons"]]
        self.primary = primary and Primary(primary, alpha_primary, self.alpha / alarms)
        self.output = output and Output(output, self.threshold if by_output else log(1 / self.alpha))
        self.mode, self.at, self.now, self.verdicts, self.blocks = "running", self.DRAFT, 0, 0, 0
        self.stage_time = self.stage_units = self.shared_time = 0
        self.deadline, self.gates, self.units, self.dealt = inf, {}, [0, 0], Tally()
        self.sampled = self.dropped = self.counted = 0
        self.notes = []

    def tolerance(self):
        return TOLERANCE + TOLERANCE_EACH * self.counted

    def reaches(self, figure, bound, what):
        """Whether a figure is at least as large as its bound; noted where the last digits decide that."""
        if figure != bound and abs(figure - bound) <= self.tolerance() * max(1.0, abs(bound)):
            self.notes.append(f"{what}: {figure!r} against {bound!r}")
        return figure >= bound

    def state(self):
        return self.mode if self.at is None else {self.mode: self.road[self.at]}

    def state_for_people(self):
        if self.at is None:
            return self.mode
        is_step = self.CANARY <= self.at < self.baking
        stage = f"canary({self.at - self.CANARY + 1})" if is_step else self.road[self.at]
        return stage if self.mode == "running" else f"{self.mode}({stage})"

    def share(self):
        if self.at is None or self.at < self.CANARY:
            return MILLION if self.mode == "promoted" else 0
        return self.steps[min(self.at - self.CANARY, len(self.steps) - 1)]["share"]

    def enter(self, at):
        self.mode, self.at, self.stage_time, self.stage_units = "running", at, self.now, 0
        if at == self.SHADOW:
            self.deadline = self.now + self.policy["max_time_ms"]
        if at == self.CANARY:
            self.shared_time = self.now

    def end(self, mode):
        self.mode, self.at = mode, None
        if mode == "promoted":
            for watch in self.guardrails:
                watch.freeze(self.alpha)

    def told(self, event):
        """The verdict on an event; ValueError where it does not belong here."""
        (kind, what), = event.items()
        rule = {"block": self.on_block, "tick": self.on_tick, "validated": self.on_validated, "gate": self.on_gate,
                "trip": self.on_trip, "command": self.on_command}.get(kind)
        if rule is None:
            raise ValueError(f"an event {kind!r} is not known")
        self.now = max(self.now, what["time_ms"])
        decision, reasons = rule(what)
        self.verdicts += 1
        return {"sequence": self.verdicts, "time_ms": self.now, "decision": decision, "state": self.state(),
                "share": self.share(), "reasons": reasons}

    def on_tick(self, tick):
        only(tick, "time_ms")
        return self.look()

    def on_gate(self, gate):
        only(gate, "time_ms gate passed evidence")
        self.gates[gate["gate"]] = gate["passed"]
        return self.look()

    def on_validated(self, validated):
        only(validated, "time_ms fault")
        expect((self.mode, self.at) == ("running", self.VALIDATING), "nothing is being validated")
        if validated.get("fault") is None:
            self.enter(self.SHADOW)
            return "advance", []
        self.mode = "halted"
        return "halt", [{"reason": "invalid", "fault": validated["fault"]}]

    def on_trip(self, event):
        only(event, "time_ms trip")
        trip, reasons = event["trip"], [{"reason": "trip", "trip": event["trip"]}]
        kind, what = next(iter(trip.items())) if isinstance(trip, dict) else (trip, None)
        expect(kind in ("crash", "health_checks", "memory", "replaced", "failures"), f"a trip {kind!r} is not known")
        is_nobodys = kind == "replaced" or kind == "failures" and not what["is_champion_healthy"]
        if kind == "failures" and what["count"] < self.policy["failures_max"]:
            return "not_yet", reasons
        if self.mode == "promoted" and not is_nobodys:
            return "roll_back", reasons
        if self.at is None or self.at < self.SHADOW:
            return "not_yet", reasons
        if not is_nobodys:
            self.end("rolled_back")
            return "roll_back", reasons
        if self.mode not in ("running", "paused"):
            return "not_yet", reasons
        self.mode = "halted"
        return "halt", reasons

    def on_command(self, event):
        only(event, "time_ms by command")
        command, mode, at = event["command"], self.mode, -1 if self.at is None else self.at
        runs, begun = mode == "running", at >= self.SHADOW
        expect({"start": runs and at == self.DRAFT, "pause": runs and begun, "step": runs and begun and at < self.baking,
                "resume": mode in ("paused", "halted", "inconclusive"), "promote": begun, "abort": at >= 0}.get(command),
               f"{command} is not possible while the rollout is {self.state_for_people()}")
        if command in ("start", "step"):
            self.enter(at + 1)
        elif command == "pause":
            self.mode = "paused"
        elif command == "resume":
            self.mode = "running"
            if mode == "inconclusive":
                self.deadline = self.now + self.policy["max_time_ms"]
            if mode == "halted":
                self.begin_anew()
        else:
            self.end({"promote": "promoted", "abort": "aborted"}[command])
        return "obey", [{"reason": "person", "by": event["by"], "command": command}]

    def begin_anew(self):
        """A person has looked at a broken comparison: what was built on it is forgotten, and guardrails keep what they saw."""
        self.dealt = Tally()
        for slice in self.slices:
            slice.forget()
        if self.primary:
            self.primary.forget()
        if self.output:
            self.output.forget()

    def on_block(self, block):
        only(block, "sequence time_ms share units events causes bins pairs labels")
        expect(block["sequence"] == self.blocks + 1, f"block {block['sequence']} is out of order")
        self.blocks += 1
        share, units = share_of(block["share"]), block.get("units", [0, 0])
        self.units, self.stage_units = plus(self.units, units), self.stage_units + units[1]
        self.dealt.add(share, units)
        counts = [sum(units)]
        events, causes = block.get("events", {}), block.get("causes", {})
        for watch in self.guardrails + self.slices:
            if watch.cusum or watch.metric in events or watch.metric in causes:
                counts.append(watch.add(share, events.get(watch.metric), causes.get(watch.metric)))
        if self.output:
            counts.append(self.output.add(share, block.get("bins", {}).get("output", [])))
        pairs = block.get("pairs", {})
        sampled, dropped = pairs.get("sampled", 0), pairs.get("dropped", 0)
        self.sampled, self.dropped = self.sampled + sampled, self.dropped + dropped
        for comparison in self.comparisons:
            values = pairs.get("values", {}).get(comparison.metric)
            if values is not None and too_many(dropped, sampled):
                comparison.paused += 1
            elif values is not None:
                comparison.values.add(values)
                counts.append(values["n"])
        labels = block.get("labels", {}).get(self.primary.metric) if self.primary else None
        if labels is not None:
            counts.append(self.primary.add(labels))
        self.counted += max(counts)
        return self.look()

    def look(self):
        """What follows from the evidence: the first of these rules that applies."""
        if self.mode == "promoted":
            regressions = self.regressions()
            return "roll_back" if regressions else "not_yet", regressions
        if self.at is None or self.at < self.SHADOW:
            return "not_yet", []
        quality = self.primary.quality(self.reaches) if self.primary else None
        if alarms := self.alarms(quality):
            self.end("rolled_back")
            return "roll_back", alarms
        if self.mode in ("running", "paused") and (broken := self.broken()):
            self.mode = "halted"
            return "halt", broken
        if self.mode != "running":
            return "not_yet", []
        if self.at == self.SHADOW and not self.is_paired():
            quality = None
        if quality and quality["is_futile"]:
            self.end("futile")
            return "futile", [quality]
        if waits := self.waits(quality):
            if self.now >= self.deadline:
                self.mode = "inconclusive"
                return "inconclusive", waits
            return "not_yet", waits
        if self.at == self.baking:
            reasons = self.readings() + ([quality] if quality else [])
            self.end("promoted")
            return "promote", reasons
        reasons = [self.time(self.stage_time, 0)]
        if self.at == self.SHADOW:
            reasons = [comparison.reason(self.reaches) for comparison in self.comparisons] + ([quality] if quality else [])
        self.enter(self.at + 1)
        return "advance", reasons

    def readings(self):
        return [{"reason": "guardrail"} | watch.reading(self.alpha, self.threshold, self.reaches) for watch in self.guardrails]

    def alarms(self, quality):
        alarmed = [self.reaches(watch.ln_e, self.threshold, f"the alarm of {watch.metric}") for watch in self.guardrails]
        found = [reading for reading, is_alarm in zip(self.readings(), alarmed) if is_alarm] if any(alarmed) else []
        found += self.output.alarm(True, self.reaches) if self.output else []
        is_refused = self.is_paired() and self.pairs_refused()
        shows_harm = quality and not is_refused and quality.get("harm", {}).get("is_shown")
        return found + ([quality] if shows_harm else [])

    def broken(self):
        reasons, threshold = [], log(BROKEN)
        ln_e = ln_e_sample_ratio(self.dealt.rows())
        if self.reaches(ln_e, threshold, "the sample ratio"):
            units = functools.reduce(plus, self.dealt.values(), [0, 0])
            reasons.append({"reason": "sample_ratio", "ln_e": ln_e, "threshold": threshold, "units": units})
        ln_e = ln_e_two_sided(self.primary.arrived.rows()) if self.primary else 0.0
        if self.reaches(ln_e, threshold, "the arrival of labels"):
            reasons.append({"reason": "label_arrival", "ln_e": ln_e, "threshold": threshold})
        reasons += self.output.alarm(False, self.reaches) if self.output else []
        # e-BH: the k largest, for the greatest k whose smallest reaches K/(k alpha), which is above 1.
        ranked = sorted((watch.ln_e for watch in self.slices if watch.ln_e > 0), reverse=True)
        for k in range(len(ranked), 0, -1):
            threshold = log(len(self.slices) / (k * self.alpha))
            if self.reaches(ranked[k - 1], threshold, f"{k} slices"):
                found = [watch for watch in self.slices if watch.ln_e >= ranked[k - 1]]
                found = [watch.reading(self.alpha, threshold, self.reaches) for watch in found]
                reasons.append({"reason": "slices", "found": found})
                break
        return reasons

    def regressions(self):
        found, threshold = [], log(RUN_LENGTH)
        for watch in self.guardrails:
            ln_m = ln_mean_exp(watch.cusum.ln_m)
            if self.reaches(ln_m, threshold, f"the regression of {watch.metric}"):
                found.append({"reason": "regression", "metric": watch.metric, "ln_m": ln_m, "threshold": threshold})
        return found

    def waits(self, quality):
        """What is missing at this stage, in the order in which it is told."""
        if self.at == self.SHADOW:
            shown = [comparison.reason(self.reaches) for comparison in self.comparisons]
            waits = self.time_wait(self.stage_time, self.policy["shadow_time_ms"]) + [one for one in shown if not one["passes"]]
            return waits + self.gate_waits(self.policy["entry_gates"]) + self.outcome_waits(quality)
        if self.at < self.baking:
            step = self.steps[self.at - self.CANARY]
            return (self.time_wait(self.stage_time, step.get("min_time_ms", 0))
                    + self.units_wait([0, self.stage_units], self.stage_units, step.get("min_units", 0))
                    + self.gate_waits(step.get("gates", [])))
        waits = self.time_wait(self.shared_time, self.policy["min_time_ms"])
        waits += self.units_wait(self.units, min(self.units), self.policy["min_units"])
        waits += [reading for reading in self.readings() if not reading["passes"]]
        return waits + self.outcome_waits(quality) + self.gate_waits(self.policy["gates"])

    def outcome_waits(self, quality):
        refused = self.pairs_refused() if quality else []
        return [quality] + refused if quality and (not quality["passes"] or refused and self.is_paired()) else []

    def is_paired(self):
        """Whether pairs of a shadow decide."""
        return bool(self.primary and self.primary.design == "paired_shadow")

    def pairs_refused(self):
        if self.primary.is_refused:
            return [{"reason": "pairs_refused", "metric": self.primary.metric, "why": WHY_REFUSED}]
        if self.is_paired() and too_many(self.dropped, self.sampled):
            return [{"reason": "drops", "sampled": self.sampled, "dropped": self.dropped}]
        return []

    def time(self, since, limit):
        return {"reason": "time", "elapsed_ms": self.now - since, "limit_ms": limit}

    def time_wait(self, since, limit):
        return [self.time(since, limit)] if self.now - since < limit else []

    def units_wait(self, units, least, needed):
        return [{"reason": "units", "units": units, "needed": needed}] if least < needed else []

    def gate_waits(self, gates):
        return [{"reason": "gate", "gate": gate, "refused": gate in self.gates} for gate in gates if not self.gates.get(gate)]


# --- The log ------------------------------------------------------------------------------------------------------------


class Verifier:
    """Takes in a log's entries, and stops with a ValueError at the first that does not follow."""

    def __init__(self):
        self.rollouts, self.proved, self.notes, self.apart, self.entries = {}, {}, [], 0.0, 0

    def take(self, entry):
        kind, data = entry["kind"], entry["data"]
        if kind == "rollout.plan":
            only(data, "rollout plan declared")
            name, plan = data["rollout"], data["plan"]
            expect(name not in self.rollouts, f"rollout {name} has begun already")
            self.rollouts[name] = Rollout(plan)
            self.proved[name] = [name, plan["endpoint"], plan["revision"], "draft", 0]
        elif kind == "rollout.event":
            only(data, "rollout event verdict")
            name = data["rollout"]
            expect(name in self.rollouts, f"no rollout {name} has begun")
            rollout = self.rollouts[name]
            rollout.notes = []
            found = rollout.told(data["event"])
            self.notes += [f"entry {entry['seq']}, rollout {name}: {note}" for note in rollout.notes]
            tolerance = rollout.tolerance()
            apart = compare(data["verdict"], found, tolerance, f"rollout {name}, verdict {rollout.verdicts}:")
            self.apart = max(self.apart, apart)
            self.proved[name][3:] = rollout.state_for_people(), rollout.verdicts
        else:
            expect(not kind.startswith("rollout."), f"{kind} is not known")
        self.entries += 1

    def table(self):
        rows = [["ROLLOUT", "ENDPOINT", "REVISION", "STATE", "VERDICTS"], *(row for _, row in sorted(self.proved.items()))]
        widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
        return "\n".join("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def compare(told, found, tolerance, place, scale=1e-300):
    """How far figures are apart at most, relative to them; ValueError where anything is not the same."""
    if isinstance(found, float) and not isfinite(found):
        found = None  # as JSON has it
    apart, parts = 0.0, []
    if isinstance(told, float) and isinstance(found, float):
        apart = abs(told - found) / max(abs(told), abs(found), scale)
        is_same = apart <= tolerance
    elif isinstance(told, dict) and isinstance(found, dict):
        is_same, between = told.keys() == found.keys(), " " if place.endswith(":") else "."
        parts = [(key, f"{place}{between}{key}", 1.0 if key in SIGNED else scale) for key in found]
    elif isinstance(told, list) and isinstance(found, (list, tuple)):
        is_same = len(told) == len(found)
        parts = [(at, f"{place}[{at}]", scale) for at in range(len(found))]
    else:
        is_same = type(told) is type(found) and told == found
    expect(is_same, f"{place} is recorded as {json.dumps(told)}, and {json.dumps(found)} follows from the evidence")
    return max([apart, *(compare(told[key], found[key], tolerance, at, scale) for key, at, scale in parts)])


def once(pairs):
    expect(len({key for key, _ in pairs}) == len(pairs), "a key that is there twice")
    return dict(pairs)


def verify(chain, path):
    """Prints what a log shows; whether all of it follows."""
    try:
        whole = chain.verify(path)
    except (OSError, ValueError) as why:
        print(f"{path}: broken, {why}")
        return False
    verifier, fault = Verifier(), None
    for segment in [path] if path.is_file() else sorted(path.glob("[0-9]" * 20 + ".jsonl")):
        with segment.open("rb") as lines:
            for number, line in enumerate((line for line in lines if line.endswith(b"\n")), 1):
                try:
                    verifier.take(json.loads(line, object_pairs_hook=once))
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as why:
                    why = why if isinstance(why, ValueError) else f"not in the form that docs/log.md has, {why!r}"
                    fault = f"{segment.name} line {number}, entry {chain.read(line[:-1])[0]}: {why}"
                    break
        if fault:
            break
    if verifier.proved:
        print(verifier.table())
    identical = sum(row[-1] for row in verifier.proved.values())
    print(f"{identical} verdicts are identical, figures to {verifier.apart:.0e}; {path}: whole, {whole}.")
    for note in verifier.notes:
        print(f"Decided by the last digits, {note}.")
    if fault:
        print(f"DIFFERENT: {fault}.")
    return not fault and verifier.entries > 0


def main():
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    spec = importlib.util.spec_from_file_location("chain", ROOT / "registry" / "verify.py")
    chain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chain)
    return 0 if all([verify(chain, pathlib.Path(path)) for path in sys.argv[1:]]) else 1


if __name__ == "__main__":
    sys.exit(main())
