//! What do several replicas know together? Their windows add up, to the bit.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tiltyard_drift::alarm::{Rule, Watch};
use tiltyard_drift::baseline::Baseline;
use tiltyard_drift::windows::Windows;

use super::super::exit::Failure;
use super::super::models::text;
use super::super::target::{Http, ask, path_part};
use crate::drift::told::stand;

/// Asks a server how everything stands; `is_raw`: with the windows themselves.
pub(super) fn fetch(http: &Http, model: Option<&str>, is_raw: bool) -> Result<Vec<Value>, Failure> {
    let raw = is_raw.then(|| "windows=raw".to_owned());
    let of = model.map(|model| format!("model={}", path_part(model)));
    let query = raw.into_iter().chain(of).collect::<Vec<_>>().join("&");
    let path = if query.is_empty() { "/admin/drift".to_owned() } else { format!("/admin/drift?{query}") };
    let answer = ask(http, "GET", &path, Vec::new())?;
    serde_json::from_slice(&answer)
        .map_err(|error| Failure::failed(format!("the answer is not that of a Tiltyard server: {error}")))
}

/// The windows of one version; none where nothing watches it.
pub(super) fn windows(one: &Value) -> Result<Option<Windows>, Failure> {
    let Some(baseline) = one["raw"]["baseline"].as_str() else { return Ok(None) };
    let odd = |why: String| Failure::failed(format!("the windows of {} cannot be read: {why}", text(one, "model")));
    let baseline = Baseline::from_json(baseline).map_err(odd)?;
    let bytes = STANDARD.decode(one["raw"]["windows"].as_str().unwrap_or_default());
    let bytes = bytes.map_err(|error| odd(error.to_string()))?;
    Windows::read(&baseline, &bytes).map(Some).map_err(|error| odd(error.to_string()))
}

/// What all of them say, put together as of `now_ms`. Levels are what the windows that are kept say, from the oldest on.
pub(super) fn merged(replicas: Vec<Vec<Value>>, now_ms: u64) -> Result<Vec<Value>, Failure> {
    let mut together: BTreeMap<(String, String), (Value, Option<Windows>)> = BTreeMap::new();
    for one in replicas.into_iter().flatten() {
        let theirs = windows(&one)?;
        let (_, ours) =
            together.entry((text(&one, "model"), text(&one, "artifact"))).or_insert_with(|| (one.clone(), None));
        match (ours.as_mut(), theirs) {
            (Some(ours), Some(theirs)) => ours.merge(theirs, now_ms).map_err(|why| {
                let (model, version) = (text(&one, "model"), text(&one, "version"));
                Failure::failed(format!(
                    "{model} {version} is watched by different baselines: {why}; give every replica the same baseline.json"
                ))
            })?,
            (None, Some(theirs)) => *ours = Some(theirs),
            (_, None) => {}
        }
    }
    let finish = |(mut form, windows): (Value, Option<Windows>)| {
        if let Some(mut windows) = windows {
            windows.advance(now_ms);
            form["state"] = json!("watched");
            stand(&mut form, &windows, &Watch::replay(Rule::default(), &windows));
            let bytes = STANDARD.encode(windows.write());
            form["raw"] = json!({ "baseline": windows.baseline().to_json(), "windows": bytes });
        }
        form
    };
    Ok(together.into_values().map(finish).collect())
}

#[cfg(test)]
mod tests {
    use tiltyard_drift::baseline::{Builder, Role, Spec};
    use tiltyard_drift::shard::Shard;
    use tiltyard_drift::values::Values;
    use tiltyard_types::Tensor;

    use super::*;

    fn replica(rows: usize) -> Value {
        let ages: Vec<f32> = (0..1_000).map(|row| row as f32).collect();
        let column = Tensor::from_slice([1_000], &ages).expect("1,000 of them");
        let mut builder = Builder::new(1_000);
        let spec = Spec { name: "age".into(), role: Role::Input, importance: 1.0 };
        builder.add(spec, &[Values::of(&column, 0).expect("one column")]).expect("it fits");
        let baseline = builder.finish().expect("a baseline");
        let (mut shard, mut windows) = (Shard::new(&baseline), Windows::new(&baseline));
        shard.rows(rows);
        shard.tensor(&[Some(0)], &Tensor::from_slice([rows], &ages[..rows]).expect("rows"));
        windows.absorb(&mut shard, 0);
        let raw = json!({ "baseline": baseline.to_json(), "windows": STANDARD.encode(windows.write()) });
        json!({ "model": "risk", "version": "2", "artifact": "a", "state": "watched", "raw": raw })
    }

    #[test]
    fn rows_of_replicas_add_up() {
        let nobody = json!({ "model": "risk", "version": "2", "artifact": "a", "state": "no baseline" });
        let all = merged(vec![vec![nobody], vec![replica(100)], vec![replica(40)]], 1_000).expect("together");
        assert_eq!((all.len(), &all[0]["open_hour_rows"], &all[0]["state"]), (1, &json!(140), &json!("watched")));
        assert_eq!(windows(&all[0]).expect("windows").expect("some").baseline().features().len(), 1);
        let mut odd = replica(1);
        odd["raw"]["windows"] = json!("AAAA");
        assert!(merged(vec![vec![odd]], 0).is_err());
    }
}
