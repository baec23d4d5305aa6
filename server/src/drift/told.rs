//! How does drift stand, for programs and in figures?

use serde_json::{Value, json};
use tiltyard_drift::alarm::Level;
use tiltyard_drift::baseline::Role;

use super::watched::{Stage, Watched};

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
    /// All that is known, for programs.
    pub(super) fn form(&self) -> Value {
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
        let facts = counting.baseline.facts();
        form["baseline"] = json!({
            "digest": counting.baseline.digest().to_string(), "provisional": facts.provisional, "rows": facts.rows,
            "left_out": facts.left_out,
        });
        let kept = self.kept();
        let Some((windows, watch)) = &kept.standing else { return form };
        let (level, since_ms) = watch.whole();
        form["level"] = json!(level.name());
        form["since_ms"] = json!(since_ms);
        form["inputs"] = json!(watch.level(Role::Input).name());
        form["outputs"] = json!(watch.level(Role::Output).name());
        let hour = windows.open(tiltyard_drift::span::Span::Hour);
        form["open_hour_rows"] = json!(hour.map_or(0, |window| window.rows));
        let features = counting.baseline.features().iter().enumerate().map(|(position, feature)| {
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
        form
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
