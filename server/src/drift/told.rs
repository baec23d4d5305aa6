//! How does drift stand, for programs and in figures?

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tiltyard_drift::alarm::{Level, Watch};
use tiltyard_drift::baseline::Role;
use tiltyard_drift::span::Span;
use tiltyard_drift::windows::Windows;

use super::watched::{Stage, Watched};
use crate::alerts::conditions::Drifting;

/// How one artifact stands.
pub(crate) struct Levels {
    /// The model.
    pub(crate) model: String,
    /// Its version.
    pub(crate) version: u64,
    /// The worst of inputs and of outputs: 0 as expected, 1 warns, 2 alerts.
    pub(crate) roles: [(&'static str, u8); 2],
    /// How many features are at each level.
    pub(crate) features: [(&'static str, u64); 3],
}

fn number(level: Level) -> u8 {
    match level {
        Level::Ok => 0,
        Level::Warn => 1,
        Level::Alert => 2,
    }
}

impl Watched {
    /// All that is known, for programs; `is_raw`: with the baseline and the windows themselves, as other programs need them.
    pub(super) fn form(&self, is_raw: bool) -> Value {
        let (state, wanted) = self.progress();
        let mut form = json!({
            "model": self.model, "version": self.version.to_string(), "artifact": self.artifact, "state": state,
        });
        if let Some((rows, ms)) = wanted {
            form["wanted"] = json!({ "rows": rows, "seconds": ms / 1_000 });
        }
        if state == "no baseline" {
            form["why"] = json!(match self.is_gathered() {
                true => "first traffic became none: see the log",
                false => "make one with `tiltyard drift baseline`, or set drift = \"traffic\"",
            });
        }
        let stage = self.stage();
        let Stage::Counting(counting) = &*stage else { return form };
        let kept = self.kept();
        let Some((windows, watch)) = &kept.standing else { return form };
        stand(&mut form, windows, watch);
        if is_raw {
            form["raw"] = json!({
                "baseline": counting.baseline.to_json(), "windows": STANDARD.encode(windows.write()),
            });
        }
        form
    }

    /// How inputs stand, and why; `None` where nothing is watched.
    pub(crate) fn inputs(&self) -> Option<(Level, String)> {
        let stage = self.stage();
        let Stage::Counting(counting) = &*stage else { return None };
        let kept = self.kept();
        let (_, watch) = kept.standing.as_ref()?;
        let level = watch.level(Role::Input);
        let inputs = counting.baseline.features().iter().enumerate().filter(|(_, feature)| feature.role == Role::Input);
        let worst = inputs.map(|(position, _)| watch.standing(position)).find(|standing| standing.level == level);
        Some((level, worst.map(|standing| standing.why).unwrap_or_default()))
    }

    /// Who drifts, for alerts; `None` where nothing is watched.
    pub(super) fn drifting(&self) -> Option<Drifting> {
        let stage = self.stage();
        let Stage::Counting(counting) = &*stage else { return None };
        let kept = self.kept();
        let (_, watch) = kept.standing.as_ref()?;
        let standings = (0..counting.baseline.features().len()).map(|position| watch.standing(position));
        let mut columns: Vec<(u8, String)> = standings
            .filter(|standing| standing.level != Level::Ok)
            .map(|standing| (number(standing.level), standing.why))
            .collect();
        columns.sort_by(|one, other| other.cmp(one));
        let worst = [watch.level(Role::Input), watch.level(Role::Output), watch.whole().0].map(number);
        let level = worst.into_iter().max().unwrap_or(0);
        Some(Drifting { model: self.model.clone(), version: self.version.to_string(), level, columns })
    }

    /// The same in figures; `None` where nothing is watched.
    pub(super) fn levels(&self) -> Option<Levels> {
        let stage = self.stage();
        let Stage::Counting(counting) = &*stage else { return None };
        let kept = self.kept();
        let (_, watch) = kept.standing.as_ref()?;
        let mut features = [("ok", 0), ("warn", 0), ("alert", 0)];
        for position in 0..counting.baseline.features().len() {
            features[usize::from(number(watch.standing(position).level))].1 += 1;
        }
        let roles =
            [("input", Role::Input), ("output", Role::Output)].map(|(name, role)| (name, number(watch.level(role))));
        Some(Levels { model: self.model.clone(), version: self.version, roles, features })
    }
}

/// Adds how features stand by these windows.
pub(crate) fn stand(form: &mut Value, windows: &Windows, watch: &Watch) {
    let facts = windows.baseline().facts();
    form["baseline"] = json!({
        "digest": windows.baseline().digest().to_string(), "provisional": facts.provisional, "rows": facts.rows,
        "left_out": facts.left_out,
    });
    let (level, since_ms) = watch.whole();
    form["level"] = json!(level.name());
    form["since_ms"] = json!(since_ms);
    form["inputs"] = json!(watch.level(Role::Input).name());
    form["outputs"] = json!(watch.level(Role::Output).name());
    let hour = windows.open(Span::Hour);
    form["open_hour_rows"] = json!(hour.map_or(0, |window| window.rows));
    let features = facts.features.iter().enumerate().map(|(position, feature)| {
        let standing = watch.standing(position);
        let mut told = json!({
            "name": feature.name, "role": feature.role, "level": standing.level.name(), "since_ms": standing.since_ms,
            "why": standing.why,
        });
        if let Some(reading) = standing.reading {
            told["reading"] = json!({
                "span": reading.span.name(), "from_ms": reading.from_ms, "to_ms": reading.to_ms, "rows": reading.rows,
                "distance": reading.distance, "limit": reading.limit,
                "missing": reading.missing.found, "missing_expected": reading.missing.expected,
                "strange": reading.strange.found, "strange_expected": reading.strange.expected,
                "newcomers": reading.newcomers,
            });
        }
        told
    });
    form["features"] = Value::Array(features.collect());
}
