"""What comes out as the figures of a verdict? Formulas, each of what was counted, and who counts: docs/verdicts.md."""

import functools
from math import exp, fsum, inf, lgamma, log, log1p, sqrt

MILLION = 1_000_000
UNIT = 1 << 48  # sums of observations are integers, in units of 2^-48
GRID = 64  # ratios that share the evidence
NEAREST, FARTHEST = 1.02, 60.0  # the nearest and farthest of them, relative to the bound
LN_RATIO_MAX = 9.3  # ratios beyond e^9.3 are unbounded
NEAR = 1e-12  # how exact they are found, as logarithms
SAMPLE_RATIO_WEIGHT = 2_000.0
ROUNDING = 1 / 32  # a group's share is rounded up by this at most
SEEN_MAX = 1 << 20  # keys that are remembered, over all guardrails and slices
PAIRS_EXPECTED = 256  # pairs in a first block, about
OUTCOMES_MIN = 100  # outcomes of each arm, for an interval
WHY_REFUSED = ("the label depends on the decision, and the shadow's decision was never carried out: pairs are no evidence of "
               "quality, and only a split of live traffic decides")


def too_many(dropped, sampled):
    """More than 5 %."""
    return 20 * dropped > sampled


def share_of(share):
    return share["champion"], share["challenger"]


def only(data, known):
    """What this program does not know might decide."""
    unknown = set(data) - set(known.split())
    expect(not unknown, f"fields that are not known: {', '.join(sorted(unknown))}")


def expect(holds, why):
    if not holds:
        raise ValueError(why)


# --- Tests and bounds: formulas, each of what was counted ---------------------------------------------------------------


def plus(a, b):
    return [x + y for x, y in zip(a, b)]


def log_spaced(near, far):
    return [near + (far - near) * g / (GRID - 1) for g in range(GRID)]


def ln_mean_exp(logs, count=None):
    """ln of the mean of e to each; where there are more than are given, the others are nothing beside them."""
    top = max(logs)
    return top + log(fsum([exp(value - top) for value in logs]) / (count or len(logs)))


def crossing(f, low, high):
    """Where f, which grows, passes 0 (Ridders' method); low or high where it does not between them."""
    below, above, point = f(low), f(high), inf
    if below >= 0 or above < 0:
        return low if below >= 0 else high
    while low < (middle := (low + high) / 2) < high:
        at_middle, before = f(middle), point
        if at_middle == 0:
            break
        point = middle - (middle - low) * at_middle / sqrt(at_middle * at_middle - below * above)
        if abs(point - before) < 1e-6 and f(point - NEAR) < 0 <= f(point + NEAR):
            return point
        for x, y in ((middle, at_middle), (point, f(point))):
            if low < x < high:
                low, below, high, above = (x, y, high, above) if y < 0 else (low, below, x, y)
    return middle


class Tally(dict):
    """Events by arm under each share (champion's and challenger's millionths): all that kernel A needs to know."""

    def add(self, share, events):
        if min(share) > 0 and any(events):
            self[share] = plus(self.get(share, [0, 0]), events)

    def add_exposed(self, of, events):
        """A group of runs: in place of the share, the challenger's part of them in millionths, rounded up to six binary digits."""
        part = -(-of[1] * MILLION // sum(of)) if any(of) else 0
        unit = 1 << max(part.bit_length() - 6, 0)
        part = min(-(-part // unit) * unit, MILLION)
        self.add((MILLION - part, part), events)

    def add_groups(self, groups):
        """Each on its own; returns how many runs there were by arm, and events."""
        for group in groups:
            self.add_exposed(group["of"], group["events"])
        return [functools.reduce(plus, (group[what] for group in groups), [0, 0]) for what in ("of", "events")]

    def rows(self):
        """(w, champion's, challenger's) for each share, w being the challenger's part of both."""
        return tuple((share[1] / sum(share), *events) for share, events in sorted(self.items()))


def ln_label_test(rows, null, near, far):
    """Kernel A: ln E against the ratio e^null, for ratios from e^near to e^far.

    With p(r) = w r/(w r + 1 - w), an event of the challenger's weighs p(r)/p(r0) = r/r0 / q and one of the champion's
    (1 - p(r))/(1 - p(r0)) = 1/q, where q = (w r + 1 - w)/(w r0 + 1 - w) = 1 + (r - r0) w/(w r0 + 1 - w).
    """
    r0, logs, top = exp(null), [], -inf
    challengers = sum(challenger for _, _, challenger in rows)
    each = [(w / (w * r0 + 1 - w), champion + challenger) for w, champion, challenger in rows]
    for ln_r in log_spaced(near, far):
        more = exp(ln_r) - r0
        logs.append(challengers * (ln_r - null) - sum([count * log1p(more * part) for part, count in each]))
        # As a function of ln r it is concave: beyond its top it only falls.
        if logs[-1] < top - 50:
            break
        top = max(top, logs[-1])
    return ln_mean_exp(logs, GRID)


def ln_e_above(rows, tolerance):
    null = log1p(tolerance)
    return ln_label_test(rows, null, null + log(NEAREST), max(log(FARTHEST), null + log(2)))


@functools.lru_cache(256)
def ln_e_two_sided(rows, tolerance=0.0):
    """Above 1 + tolerance or below 1/(1 + tolerance), half each."""
    null = log1p(tolerance)
    near, far = null + log(NEAREST), max(log(FARTHEST), null + log(2))
    return ln_mean_exp([ln_label_test(rows, sign * null, sign * near, sign * far) for sign in (1, -1)])


@functools.lru_cache(256)
def ratio_bounds(rows, alpha):
    """What ratios are not excluded: lower, and upper or None."""
    near, far, threshold = log(NEAREST), log(FARTHEST), -log(alpha)
    smaller = lambda null: ln_label_test(rows, null, null - near, null - far) - threshold
    larger = lambda null: threshold - ln_label_test(rows, null, null + near, null + far)
    lower, upper = (crossing(f, -LN_RATIO_MAX, LN_RATIO_MAX) for f in (larger, smaller))
    return 0.0 if lower == -LN_RATIO_MAX else exp(lower), None if upper == LN_RATIO_MAX else exp(upper)


@functools.lru_cache(256)
def rate_upper(events, units, alpha):
    """The most that a rate can be: against p, 15/16 of the evidence is for "never" and 1/16 for p/60 to p/1.02."""
    clean = max(units - events, 0)

    def excess(ln_p):
        p = exp(ln_p)
        logs = [events * ln_m + clean * log1p(p * -(exp(ln_m) - 1) / (1 - p))
                for ln_m in log_spaced(-log(FARTHEST), -log(NEAREST))]
        some, never = log(1 / 16) + ln_mean_exp(logs), log(15 / 16) - clean * log1p(-p)
        return (some if events else log(2) + ln_mean_exp([never, some])) + log(alpha)

    most = log(0.999_999)
    found = crossing(excess, log(1e-12), most)
    return 1.0 if found == most else exp(found)


def ln_beta(a, b):
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def ln_e_sample_ratio(rows):
    """Units are dealt as configured: at each share, Beta(2000 w, 2000 (1 - w))."""
    ln_e = 0.0
    for w, champion, challenger in rows:
        a, b = SAMPLE_RATIO_WEIGHT * w, SAMPLE_RATIO_WEIGHT * (1 - w)
        ln_e += ln_beta(a + challenger, b + champion) - ln_beta(a, b) - challenger * log(w) - champion * log1p(-w)
    return ln_e


def ln_above_half(a, b):
    """ln of how much of Beta(a, b) lies above 1/2: that of n = a + b - 1 coins at most a - 1 show heads."""
    n = a + b - 1

    def ln_at_most(k):
        total = term = 1.0
        for j in range(k, 0, -1):
            term *= j / (n - j + 1)
            total += term
            if term < 1e-18 * total:
                break
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2) + log(total)

    return ln_at_most(a - 1) if 2 * (a - 1) < n else log1p(-exp(ln_at_most(b - 1)))


def ln_e_discordant(champion, challenger):
    """The challenger alone is right no more often than the champion alone: Beta(5, 5), cut off at 1/2."""
    a, b = 5 + challenger, 5 + champion
    ln_e = ln_beta(a, b) + ln_above_half(a, b) - ln_beta(5, 5) - ln_above_half(5, 5)
    return ln_e + (champion + challenger) * log(2)


class MeanBounds:
    """The empirical-Bernstein confidence sequence of values from 0 to 1, a block at a time; alpha for each bound."""

    def __init__(self, alpha):
        self.budget, self.n, self.x, self.expected = log(1 / alpha), 0, 0, PAIRS_EXPECTED
        self.v = self.weights = self.weighted = self.psi_v = 0.0

    def add(self, values):
        n, x, xx = int(values["n"]), int(values["x"]), int(values["xx"])
        if n == 0:
            return
        # From earlier blocks.
        mean, variance = (0.5 + self.x / UNIT) / (self.n + 1), (0.25 + self.v) / (self.n + 1)
        t = self.n + self.expected
        weight = min(sqrt(2 * self.budget / (variance * t * log1p(t))), 0.5)
        v = max(xx / UNIT - 2 * mean * (x / UNIT) + mean * mean * n, 0.0)
        self.weights += weight * n
        self.weighted += weight * (x / UNIT)
        self.psi_v += v * (-log1p(-weight) - weight)
        self.n, self.x, self.v, self.expected = self.n + n, self.x + x, self.v + v, n

    def mean(self):
        return self.x / UNIT / self.n if self.n else 0.5

    def bounds(self):
        if not self.n:
            return 0.0, 1.0
        center, radius = self.weighted / self.weights, (self.budget + self.psi_v) / self.weights
        return max(center - radius, 0.0), min(center + radius, 1.0)

    def ln_e_below(self, mean):
        """ln E against "the mean is at least this"."""
        return self.weights * mean - self.weighted - self.psi_v


def split_difference(cohorts, alpha, planned):
    """n, the mean gain and its bounds (each on its own) of outcomes [n, y, yy, z, zz, yz] by share and arm."""
    columns = list(zip(*(arm for arms in cohorts.values() for arm in arms)))
    n = sum(columns[0]) if columns else 0
    if n < 2:
        return n, 0.0, (-inf, inf)
    y, _, z, zz, yz = (sum(column) / UNIT / n for column in columns[1:])
    variance = zz - z * z
    theta = (yz - y * z) / variance if variance > 1e-12 else 0.0
    shift = y - theta * z  # Y' = Y - theta Z - shift
    total = squares = 0.0
    for share, arms in sorted(cohorts.items()):
        w = share[1] / sum(share)
        for arm, weight in zip(arms, (-1 / (1 - w), 1 / w)):
            count, (y, yy, z, zz, yz) = arm[0], (value / UNIT for value in arm[1:])
            first, second = y - theta * z, yy - 2 * theta * yz + theta * theta * zz
            total += weight * (first - shift * count)
            squares += weight * weight * max(second - 2 * shift * first + shift * shift * count, 0.0)
    mean = total / n
    deviation = sqrt(max(squares / n - mean * mean, 0.0))
    rho = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / planned
    radius = deviation * sqrt(2 * (n * rho + 1) / (n * n * rho) * log1p(sqrt(n * rho + 1) / (2 * alpha)))
    return n, mean, (mean - radius, mean + radius)


class Cusum:
    """After the promotion: has a rate gone above one that was fine?"""

    def __init__(self, rate):
        self.rate = min(max(rate, 1e-9), 0.9)
        self.ln_m = [0.0] * GRID

    def add(self, events, units):
        clean, p = max(units - events, 0), self.rate
        ratios = log_spaced(log(NEAREST), log(min(FARTHEST, 0.99 / p)))
        self.ln_m = [max(ln_m, 0.0) + events * ln_r + clean * log1p(-p * (exp(ln_r) - 1) / (1 - p))
                     for ln_m, ln_r in zip(self.ln_m, ratios)]


# --- What is watched ----------------------------------------------------------------------------------------------------


class Watch:
    """A guardrail, of everything or of a slice."""

    def __init__(self, rule, keys_max):
        only(rule, "metric tolerance margin floor")
        self.metric, self.keys_max = rule["metric"], keys_max
        self.tolerance, self.margin = float(rule.get("tolerance", 0.25)), float(rule.get("margin", 0.5))
        self.floor = None if rule.get("floor") is None else float(rule["floor"])
        self.events, self.of, self.seen, self.thinned, self.cusum = [0, 0], [0, 0], set(), 0, None
        self.has_runs, self.of_causes, self.events_of_causes = False, [0, 0], [0, 0]
        self.forget()

    def forget(self):
        self.by_request = self.by_cause = None
        self.ln_e = self.ln_e_max = 0.0

    def tallies(self):
        return [tally for tally in (self.by_request, self.by_cause) if tally is not None]

    def counts(self, key):
        """Whether this is the key's first event, and the key in the sample: its lowest 4 * thinned bits are zero."""
        mask = lambda: (1 << 4 * self.thinned) - 1
        if key & mask() or key in self.seen:
            return False
        self.seen.add(key)
        while len(self.seen) > self.keys_max and self.thinned < 15:
            self.thinned += 1
            self.seen = {key for key in self.seen if not key & mask()}
        return not key & mask()

    def add(self, share, events, causes):
        told, of_causes = ([0, 0], [0, 0]), ([0, 0], [0, 0])
        if causes is not None:
            self.by_cause = Tally() if self.by_cause is None else self.by_cause
            of_causes = self.by_cause.add_groups(causes)
            if self.by_request is None and events is None:
                told = of_causes
        if events is not None:
            self.by_request = Tally() if self.by_request is None else self.by_request
            (kind, what), = events.items()
            if kind == "runs":
                self.has_runs, told = True, self.by_request.add_groups(what)
            else:
                happened = what["events"] if kind == "every" else [sum(map(self.counts, keys)) for keys in what["keys"]]
                self.by_request.add(share, happened)
                told = what["of"], happened
        if events is not None or causes is not None:
            self.ln_e = min(ln_e_above(tally.rows(), self.tolerance) for tally in self.tallies())
            self.ln_e_max = max(self.ln_e_max, self.ln_e)
        self.of, self.events = plus(self.of, told[0]), plus(self.events, told[1])
        self.of_causes, self.events_of_causes = plus(self.of_causes, of_causes[0]), plus(self.events_of_causes, of_causes[1])
        if self.cusum:
            of, events = of_causes if self.has_runs else told
            self.cusum.add(events[1], of[1])
        return sum(told[0])

    def rate_upper(self, arm, alpha):
        of = self.of[arm] >> 4 * self.thinned
        return rate_upper(min(self.events[arm], of), of, alpha)

    def freeze(self, alpha):
        of, events, upper = self.of[0], self.events[0], self.rate_upper(0, alpha)
        if self.has_runs:
            of, events = self.of_causes[0], self.events_of_causes[0]
            upper = rate_upper(events, of, alpha)
        self.cusum = Cusum(max(events / max(of, 1) * (1 + self.tolerance), self.floor or 0.0, upper))

    def ratio(self, alpha):
        """Whatever may be true by either count."""
        found = []
        for tally, slack in (self.by_request, 1 + ROUNDING if self.has_runs else 1), (self.by_cause, 1 + ROUNDING):
            if tally is not None:
                lower, upper = ratio_bounds(tally.rows(), alpha)
                found.append((lower, upper and upper * slack))
        lowers, uppers = zip(*found) if found else ((0.0,), (None,))
        return min(lowers), None if None in uppers else max(uppers)

    def reading(self, alpha, threshold, reaches):
        lower, upper = self.ratio(alpha)
        bound, rate = 1 + self.margin, self.rate_upper(1, alpha)
        is_small = self.floor is not None and reaches(self.floor, rate, f"the floor of {self.metric}")
        is_like = upper is not None and reaches(bound, upper, f"the ratio of {self.metric}")
        return {"metric": self.metric, "ln_e": self.ln_e, "threshold": threshold, "p": min(exp(-self.ln_e_max), 1.0),
                "events": self.events, "of": self.of, "ratio": {"lower": lower, "upper": upper}, "ratio_bound": bound,
                "rate_upper": rate, "floor": self.floor, "passes": is_small or is_like}


class Comparison:
    """What pairs of answers show."""

    def __init__(self, rule, alpha_guardrails, alpha_primary):
        only(rule, "metric rule")
        self.metric, self.alpha, rule = rule["metric"], alpha_guardrails, rule["rule"]
        self.kind, bound = (rule, None) if isinstance(rule, str) else next(iter(rule.items()))
        self.bound = None if bound is None else float(bound)
        self.values, self.paused = MeanBounds(alpha_primary), 0

    def reason(self, reaches):
        n, upper = self.values.n, self.values.bounds()[1]
        if self.kind == "refactor":
            mismatches = (2 * self.values.x + UNIT) // (2 * UNIT)
            upper = rate_upper(mismatches, n, self.alpha)
        passes = self.bound is None or reaches(self.bound, upper, f"comparison {self.metric}")
        rule = self.kind if self.bound is None else {self.kind: self.bound}
        return {"reason": "comparison", "metric": self.metric, "rule": rule, "n": n, "mean": self.values.mean(),
                "upper": upper, "paused_blocks": self.paused, "passes": passes}


class Output:
    """Where the answers of both arms fall."""

    def __init__(self, rule, threshold):
        only(rule, "name tolerance roll_back")
        self.tolerance, self.rolls_back = float(rule.get("tolerance", 0.25)), rule.get("roll_back", False)
        self.threshold = threshold
        self.forget()

    def forget(self):
        self.bins = []

    def add(self, share, bins):
        self.bins += [Tally() for _ in bins[len(self.bins):]]
        for tally, events in zip(self.bins, bins):
            tally.add(share, events)
        return sum(map(sum, bins))

    def alarm(self, rolls_back, reaches):
        """The reason, where it alarms and that rolls back, or halts."""
        if rolls_back != self.rolls_back:
            return []
        ln_e = sum(ln_e_two_sided(tally.rows(), self.tolerance) for tally in self.bins)
        if not reaches(ln_e, self.threshold, "the shift of the output"):
            return []
        bins = [functools.reduce(plus, tally.values(), [0, 0]) for tally in self.bins]
        champions, challengers = (max(sum(column), 1) for column in zip(*bins))
        distance = sum(abs(a / champions - b / challengers) for a, b in bins) / 2
        distance = distance if all(map(sum, zip(*bins))) else 0.0
        return [{"reason": "output", "ln_e": ln_e, "threshold": self.threshold, "bins": bins, "distance": distance}]


class Primary:
    """The outcome by which the challenger must win. A harm is shown by its own alpha."""

    def __init__(self, rule, alpha, alpha_harm):
        only(rule, "metric design gain output threshold scale label_depends_on_decision horizon_ms missing margin least_gain harm "
                   "planned_units")
        self.rule, self.alpha, self.alpha_harm, self.metric = rule, alpha, alpha_harm, rule["metric"]
        # The largest loss of a row: pairs are told as shares of it.
        scale = float(rule.get("scale") or 1)
        self.unit = {"absolute_error": scale, "squared_error": scale * scale}.get(rule.get("gain"), 1.0)
        self.is_refused = rule["design"] == "paired_shadow" and rule["label_depends_on_decision"]
        self.design = "split" if self.is_refused else rule["design"]
        self.forget()

    def forget(self):
        self.cohorts, self.arrived = {}, Tally()
        self.paired, self.discordant, self.is_binary = MeanBounds(self.alpha), [0, 0], True

    def add(self, labels):
        only(labels, "matured paired discordant is_binary")
        for matured in labels.get("matured", []):
            share = share_of(matured["share"])
            self.arrived.add(share, matured["arrived"])
            if min(share) > 0:
                sums = [[int(arm.get(name, 0)) for name in ("n", "y", "yy", "z", "zz", "yz")] for arm in matured["outcomes"]]
                self.cohorts[share] = list(map(plus, self.cohorts.get(share, [[0] * 6] * 2), sums))
        pairs = labels.get("paired", {"n": 0, "x": 0, "xx": 0})
        self.is_binary &= labels.get("is_binary", False) or pairs["n"] == 0
        self.discordant = plus(self.discordant, labels.get("discordant", [0, 0]))
        self.paired.add(pairs)
        return pairs["n"] + sum(arm["n"] for matured in labels.get("matured", []) for arm in matured["outcomes"])

    def split(self, alpha):
        """n, the gain, and its bounds where there are enough outcomes."""
        n, gain, bounds = split_difference(self.cohorts, alpha, self.rule["planned_units"])
        counts = functools.reduce(plus, ([arm[0] for arm in arms] for arms in self.cohorts.values()), [0, 0])
        return n, gain, bounds if min(counts) >= OUTCOMES_MIN else None

    def harm(self, reaches):
        below, upper = 0.0 - float(self.rule["harm"]), None
        if self.design == "split":
            bounds = self.split(self.alpha_harm)[2]
            upper = bounds and bounds[1]
            is_shown = upper is not None and not reaches(upper, below, "the harm")
        else:
            if self.is_binary and below == 0:
                ln_e = ln_e_discordant(*reversed(self.discordant))
            else:
                ln_e = self.paired.ln_e_below((1 + below / self.unit) / 2)
            is_shown = reaches(ln_e, -log(self.alpha_harm), "the harm")
        return {"below": below, "upper": upper, "is_shown": is_shown}

    def quality(self, reaches):
        needed, threshold, ln_e = -float(self.rule.get("margin") or 0), -log(self.alpha), None
        if self.design == "split":
            n, gain, bounds = self.split(self.alpha)
        else:
            n, gain = self.paired.n, (2 * self.paired.mean() - 1) * self.unit
            bounds = [(2 * bound - 1) * self.unit for bound in self.paired.bounds()] if n else None
            ln_e = ln_e_discordant(*self.discordant) if self.is_binary else None
        if ln_e is not None and self.rule.get("margin") is None:
            passes = reaches(ln_e, threshold, "ln E of the outcome")
        else:
            passes = bounds is not None and not reaches(needed, bounds[0], "the outcome's lower bound")
        least = self.rule.get("least_gain")
        least = needed if least is None and self.design == "paired_shadow" else least
        is_futile = None not in (bounds, least) and not reaches(bounds[1], least, "the outcome's upper bound")
        found = {"reason": "primary", "metric": self.metric, "design": self.design, "n": n, "gain": gain,
                 "interval": bounds and {"lower": bounds[0], "upper": bounds[1]}, "discordant": self.discordant, "ln_e": ln_e,
                 "threshold": threshold, "needed": needed, "passes": passes, "is_futile": is_futile}
        return found | ({} if self.rule.get("harm") is None else {"harm": self.harm(reaches)})
