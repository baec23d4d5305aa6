//! Which rules' conditions are met, of whom, and why? A pure function of what is known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::book::{Finding, Labels};
use super::history::{Figures, History, Slot, Whose};
use super::rules::{BATCH_WINDOW, DriftLevel, Rule, Watch, Windows};

/// Columns that one alert names.
const COLUMNS_SHOWN: usize = 8;

/// Of the requests that the long window must have, the short one must have so many.
const SHORT_PART: u64 = 10;

/// How one artifact drifts.
#[derive(Clone, Debug, PartialEq)]
pub struct Drifting {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The worst of inputs, outputs and the whole: 0 as expected, 1 warns, 2 alerts.
    pub level: u8,
    /// Columns that are not as expected, the worst first: level and why.
    pub columns: Vec<(u8, String)>,
}

/// A version that somebody is to look at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    /// The model.
    pub model: String,
    /// Its version in production.
    pub version: String,
    /// By when, in milliseconds since 1970.
    pub due_ms: u64,
}

/// All that rules look at.
#[derive(Debug, Default)]
pub struct View {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Counters.
    pub history: History,
    /// What is watched for drift.
    pub drifting: Vec<Drifting>,
    /// The champion's arm, by endpoint; those that are not here have but one.
    pub champions: BTreeMap<String, String>,
    /// What an hour of a processor and of a device costs.
    pub prices: [f64; 2],
    /// Whether anything is captured, and why its segments cannot be written.
    pub capture: Option<Option<String>>,
    /// Whether there is anything to be reached, and why it cannot be.
    pub registry: Option<Option<String>>,
    /// Reviews of versions in production.
    pub reviews: Vec<Review>,
}

/// What all rules find.
pub fn look(rules: &[Rule], view: &View) -> Vec<Finding> {
    rules.iter().flat_map(|rule| of_rule(rule, view)).collect()
}

fn of_rule(rule: &Rule, view: &View) -> Vec<Finding> {
    match &rule.watch {
        Watch::Drift { level } => drift(rule, view, *level),
        Watch::Errors { limit, windows, requests_min } => of_ways(rule, view, |whose| {
            let share = |figures: &Figures| figures.failed as f64 / figures.requests.max(1) as f64;
            let (is_met, [long, short]) = burns(view, whose, *windows, *requests_min, |one| share(one) >= *limit)?;
            let why = format!(
                "{} of {} requests failed within {}, and {} of {} within {}: more than {}",
                long.failed,
                long.requests,
                span(windows.long()),
                short.failed,
                short.requests,
                span(windows.short()),
                per_cent(*limit),
            );
            Some((is_met, why))
        }),
        Watch::Latency { quantile, limit, ratio, windows, requests_min } => match (limit, ratio) {
            (Some(limit), _) => {
                of_ways(rule, view, |whose| slow(view, whose, *quantile, limit.0, *windows, *requests_min))
            }
            (_, ratio) => {
                let ratio = ratio.unwrap_or(f64::INFINITY);
                of_ways(rule, view, |whose| slower(view, whose, *quantile, ratio, *windows, *requests_min))
            }
        },
        Watch::Quality { below, above, window, units_min } => {
            of_ways(rule, view, |whose| quality(view, whose, [*below, *above], window.0, *units_min))
        }
        Watch::Cost { limit, window, rows_min } => {
            of_ways(rule, view, |whose| cost(view, whose, *limit, window.0, *rows_min))
        }
        Watch::Capture { dropped, window } => capture(rule, view, *dropped, window.0),
        Watch::Registry {} => view.registry.iter().map(|trouble| stands(rule, "registry", trouble)).collect(),
        Watch::Review { before } => view.reviews.iter().map(|review| reviewed(rule, view, review, before.0)).collect(),
        Watch::Batch { busy, hours } => batch(rule, view, *busy, *hours),
    }
}

/// What a rule finds of each way that it is about.
fn of_ways(rule: &Rule, view: &View, look: impl Fn(&Whose) -> Option<(Option<bool>, String)>) -> Vec<Finding> {
    let is_its = |whose: &&Whose| {
        let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        is(&rule.endpoint, &whose.endpoint) && is(&rule.model, &whose.model)
    };
    let finding = |whose: &Whose| {
        let (is_met, why) = look(whose)?;
        let labels = labels([
            ("endpoint", &whose.endpoint),
            ("model", &whose.model),
            ("version", &whose.version),
            ("arm", &whose.arm),
        ]);
        Some(Finding { rule: rule.name.clone(), labels, is_met, why })
    };
    view.history.ways().filter(is_its).filter_map(finding).collect()
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Whether a condition is met in both windows, each with enough requests, and what they hold. The long one may be shorter than it says
/// while the process is young; until the short one is whole, nobody can say that it is not met.
fn burns(
    view: &View,
    whose: &Whose,
    windows: Windows,
    requests_min: u64,
    is_bad: impl Fn(&Figures) -> bool,
) -> Option<(Option<bool>, [Figures; 2])> {
    let history = &view.history;
    let (long, short) = (history.since(windows.long(), whose)?, history.since(windows.short(), whose)?);
    let enough = long.requests >= requests_min && short.requests >= requests_min.div_ceil(SHORT_PART);
    let is_met = enough && is_bad(&long) && is_bad(&short);
    Some((known(is_met, view, windows.short()), [long, short]))
}

/// That it is met can be said at once; that it is not, once the window is whole.
fn known(is_met: bool, view: &View, window: Duration) -> Option<bool> {
    (is_met || view.history.covered(window) >= window).then_some(is_met)
}

fn slow(
    view: &View,
    whose: &Whose,
    quantile: f64,
    limit: Duration,
    windows: Windows,
    requests_min: u64,
) -> Option<(Option<bool>, String)> {
    let took = |figures: &Figures| figures.total.quantile(quantile).unwrap_or_default();
    let (is_met, [long, short]) = burns(view, whose, windows, requests_min, |one| took(one) >= limit)?;
    let why = format!(
        "the {} took {} within {}, and {} within {}: more than {}",
        named(quantile),
        time(took(&long)),
        span(windows.long()),
        time(took(&short)),
        span(windows.short()),
        time(limit),
    );
    Some((is_met, why))
}

/// Against the champion, whose requests at the same time had the same machine. `None` for the champion itself.
fn slower(
    view: &View,
    whose: &Whose,
    quantile: f64,
    ratio: f64,
    windows: Windows,
    requests_min: u64,
) -> Option<(Option<bool>, String)> {
    let champion = view.champions.get(&whose.endpoint).filter(|champion| **champion != whose.arm)?;
    let of_champion = |window: Duration| {
        let ways = view.history.ways().filter(|way| way.endpoint == whose.endpoint && way.arm == *champion);
        let mut sum = Figures::default();
        for figures in ways.filter_map(|way| view.history.since(window, way)) {
            sum.total.merge(&figures.total);
            sum.requests += figures.requests;
        }
        sum
    };
    let took = |figures: &Figures| figures.total.quantile(quantile).unwrap_or_default();
    let champions = [of_champion(windows.long()), of_champion(windows.short())];
    let (long, short) = (view.history.since(windows.long(), whose)?, view.history.since(windows.short(), whose)?);
    let is_slower = [(&long, &champions[0], requests_min), (&short, &champions[1], requests_min.div_ceil(SHORT_PART))]
        .into_iter()
        .all(|(own, champion, least)| {
            let enough = own.requests >= least && champion.requests >= least;
            enough && took(own).as_secs_f64() >= ratio * took(champion).as_secs_f64()
        });
    let why = format!(
        "the {} took {} where the champion's took {} within {}: more than {ratio} times as long",
        named(quantile),
        time(took(&long)),
        time(took(&champions[0])),
        span(windows.long()),
    );
    Some((known(is_slower, view, windows.short()), why))
}

fn quality(
    view: &View,
    whose: &Whose,
    [below, above]: [Option<f64>; 2],
    window: Duration,
    units_min: u64,
) -> Option<(Option<bool>, String)> {
    let figures = view.history.since(window, whose)?;
    if figures.units < units_min {
        // Labels come late, and stop when a rollout ends: that few came says nothing.
        return (figures.units > 0).then_some((None, String::new()));
    }
    let mean = figures.outcomes / figures.units as f64;
    let is_below = below.is_some_and(|limit| mean < limit);
    let is_above = above.is_some_and(|limit| mean > limit);
    let limit = if is_above { above } else { below.or(above) }.unwrap_or_default();
    let side = if is_above || below.is_none() { "above" } else { "below" };
    let why =
        format!("the mean outcome is {mean:.4} of {} units within {}: {side} {limit}", figures.units, span(window));
    Some((Some(is_below || is_above), why))
}

fn cost(view: &View, whose: &Whose, limit: f64, window: Duration, rows_min: u64) -> Option<(Option<bool>, String)> {
    let figures = view.history.since(window, whose)?;
    let hours = |nanos: u64| nanos as f64 / 3.6e12;
    let spent = hours(figures.cpu_nanos) * view.prices[0] + hours(figures.device_nanos) * view.prices[1];
    let each = spent / figures.rows.max(1) as f64 * 1_000.0;
    let is_met = figures.rows >= rows_min && each > limit;
    let why = format!("1,000 rows cost {each:.6} within {}, of {} rows: more than {limit}", span(window), figures.rows);
    Some((known(is_met, view, window), why))
}

fn drift(rule: &Rule, view: &View, level: DriftLevel) -> Vec<Finding> {
    let least = if level == DriftLevel::Alert { 2 } else { 1 };
    let is_its = |one: &&Drifting| rule.model.as_deref().is_none_or(|model| model == one.model);
    let finding = |one: &Drifting| {
        let worst: Vec<&str> =
            one.columns.iter().filter(|(level, _)| *level >= least).map(|(_, why)| why.as_str()).collect();
        let mut why = worst.iter().take(COLUMNS_SHOWN).copied().collect::<Vec<_>>().join("; ");
        if worst.len() > COLUMNS_SHOWN {
            why.push_str(&format!("; and {} more columns", worst.len() - COLUMNS_SHOWN));
        }
        if worst.is_empty() {
            why.push_str("many of the inputs warn, each of them a little");
        }
        let labels = labels([("model", &one.model), ("version", &one.version)]);
        Finding { rule: rule.name.clone(), labels, is_met: Some(one.level >= least), why }
    };
    view.drifting.iter().filter(is_its).map(finding).collect()
}

/// Something that stands, or does not.
fn stands(rule: &Rule, what: &str, trouble: &Option<String>) -> Finding {
    let (is_met, why) = (Some(trouble.is_some()), trouble.clone().unwrap_or_default());
    Finding { rule: rule.name.clone(), labels: labels([("what", what)]), is_met, why }
}

fn capture(rule: &Rule, view: &View, limit: f64, window: Duration) -> Vec<Finding> {
    let Some(failing) = &view.capture else { return Vec::new() };
    let failing = failing.as_ref().map(|why| format!("segments cannot be written, and the ring fills up: {why}"));
    let [served, dropped] = view.history.capture_since(window);
    let is_met = served >= 100 && dropped as f64 >= limit * served as f64;
    let why = format!(
        "{dropped} of {served} requests within {} are not on record: more than {}",
        span(window),
        per_cent(limit)
    );
    let labels = labels([("what", "dropped")]);
    let lost = Finding { rule: rule.name.clone(), labels, is_met: known(is_met, view, window), why };
    vec![stands(rule, "segments", &failing), lost]
}

fn reviewed(rule: &Rule, view: &View, review: &Review, before: Duration) -> Finding {
    let before_ms = u64::try_from(before.as_millis()).unwrap_or(u64::MAX);
    let is_met = Some(view.now_ms.saturating_add(before_ms) >= review.due_ms);
    let date = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_millis(review.due_ms));
    let is_past = view.now_ms >= review.due_ms;
    let why = format!("its review {} due by {date}", if is_past { "was" } else { "is" });
    let labels = labels([("model", &review.model), ("version", &review.version)]);
    Finding { rule: rule.name.clone(), labels, is_met, why }
}

fn batch(rule: &Rule, view: &View, busy: f64, hours: f64) -> Vec<Finding> {
    let versions: BTreeSet<(&str, &str)> =
        view.history.ways().map(|whose| (whose.model.as_str(), whose.version.as_str())).collect();
    let is_its = |(model, _): &(&str, &str)| rule.model.as_deref().is_none_or(|wanted| wanted == *model);
    let finding = |(model, version): (&str, &str)| {
        let slots = view
            .history
            .slots(BATCH_WINDOW, |whose| (whose.model.as_str(), whose.version.as_str()) == (model, version));
        let advice = fits_batches(&slots, busy, hours)?;
        let is_met = advice.is_some();
        let labels = labels([("model", model), ("version", version)]);
        let is_met = known(is_met, view, BATCH_WINDOW);
        Some(Finding { rule: rule.name.clone(), labels, is_met, why: advice.unwrap_or_default() })
    };
    versions.into_iter().filter(is_its).filter_map(finding).collect()
}

/// Whether a device that is kept for this traffic could do the same in batches: it is busy for less than `busy` of the time, and nine tenths
/// of the rows come in less than `hours` of it. `None` where nothing ran on a device, or the day is not over.
fn fits_batches(slots: &[Slot], busy: f64, hours: f64) -> Option<Option<String>> {
    let sum = |of: fn(&Slot) -> Duration| slots.iter().map(of).sum::<Duration>();
    let (time, device) = (sum(|slot| slot.time), sum(|slot| slot.device));
    if device.is_zero() || time < BATCH_WINDOW.mul_f64(0.95) {
        return None;
    }
    let rows: u64 = slots.iter().map(|slot| slot.rows).sum();
    let mut busiest = slots.to_vec();
    busiest.sort_by_key(|slot| std::cmp::Reverse(slot.rows));
    let (mut left, mut wanted) = (rows - rows / 10, Duration::ZERO);
    for slot in busiest {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(slot.rows);
        wanted += slot.time;
    }
    let share = device.as_secs_f64() / time.as_secs_f64();
    let fits = share < busy && wanted.as_secs_f64() < hours * time.as_secs_f64();
    Some(fits.then(|| {
        format!(
            "its device was busy for {} of the last day, and 90% of {rows} rows came in {:.0} of {:.0} hours: scoring them in batches would do \
             without a device that waits",
            per_cent(share), wanted.as_secs_f64() / 3600.0, time.as_secs_f64() / 3600.0,
        )
    }))
}

fn named(quantile: f64) -> String {
    match quantile {
        0.5 => "median".to_owned(),
        _ => format!("p{}", (quantile * 1e6).round() / 1e4),
    }
}

fn per_cent(share: f64) -> String {
    format!("{}%", (share * 1e4).round() / 1e2)
}

fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn time(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests;
