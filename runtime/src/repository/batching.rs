//! What does a model's owner say about batching, in `model.toml` or in Triton's `config.pbtxt`?

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use tiltyard_types::Signature;

use super::pbtxt::{DynamicBatching, TimeoutAction};
use crate::batch::{Pad, PadDeclaration};
use crate::queue::{LEVELS_MAX, Level, PadPolicy, QueuePolicy};

/// Longer lengths are taken for a mistake in a declaration.
const LENGTH_MAX: usize = 1 << 20;

/// What padding may cost where the owner does not say: a batch does at most a fifth more work than its requests alone.
const WASTE_MAX: f64 = 0.2;

/// How a model's requests may share a run: the table `[batching]` of `model.toml`.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchingSettings {
    /// False: never batch rows of different requests. None: where it is proved safe.
    pub enabled: Option<bool>,
    /// Rows in one run at most.
    pub rows_max: Option<usize>,
    /// The numbers of rows that a run may have; fewer are padded up.
    pub sizes: Vec<usize>,
    /// Numbers of rows worth aiming for; never padded.
    pub sizes_preferred: Vec<usize>,
    /// How long the first request may wait for company.
    #[serde(deserialize_with = "duration")]
    pub delay_max: Option<Duration>,
    /// Requests that may wait at once.
    pub queue_max: Option<usize>,
    /// Bytes of requests that may wait at once.
    pub queue_bytes_max: Option<usize>,
    /// How long a request may wait; then it is answered without a run.
    #[serde(deserialize_with = "duration")]
    pub wait_max: Option<Duration>,
    /// Levels of priority; 1 is the most urgent.
    pub priorities: Option<u32>,
    /// The level of a request that names none.
    pub priority_default: Option<u32>,
    /// After how long a waiting request is on a par with fresh ones of the next level.
    #[serde(deserialize_with = "duration")]
    pub ageing: Option<Duration>,
    /// Which axis may be padded, so that requests of different lengths share a run.
    pub pad: Option<PadDeclaration>,
    /// What `config.pbtxt` says of single levels, the most urgent first.
    #[serde(skip)]
    levels: Vec<Level>,
}

impl BatchingSettings {
    /// Whether the owner says nothing of how many rows a run shall have.
    pub(crate) fn leaves_sizes_open(&self) -> bool {
        self.rows_max.is_none() && self.sizes.is_empty() && self.sizes_preferred.is_empty()
    }

    /// Has runs have so many rows at most, whatever else would be allowed or learned. One row needs no saying.
    pub(crate) fn lock_rows(&mut self, rows_max: usize) {
        self.rows_max = (rows_max > 1).then_some(rows_max).or(self.rows_max);
    }

    /// What `config.pbtxt` says. Fields that change nothing here are told in `ignored`.
    pub(super) fn of_pbtxt(
        rows_max: Option<u32>,
        batching: Option<DynamicBatching>,
        ignored: &mut Vec<String>,
    ) -> Result<BatchingSettings, String> {
        let mut settings = BatchingSettings {
            enabled: rows_max.map(|rows_max| rows_max > 0),
            rows_max: rows_max.filter(|&rows_max| rows_max > 0).map(|rows_max| rows_max as usize),
            ..BatchingSettings::default()
        };
        let Some(batching) = batching else { return Ok(settings) };
        settings.sizes_preferred = batching.preferred_batch_sizes.iter().map(|&size| size as usize).collect();
        settings.delay_max = batching.queue_delay_max;
        settings.queue_max = batching.default_policy.jobs_max();
        settings.wait_max = batching.default_policy.wait_max("default_queue_policy", ignored);
        if batching.preserve_ordering {
            // Each answer goes to the one who asked, as soon as it is there: there is no order among them to keep.
            ignored.push("dynamic_batching.preserve_ordering".into());
        }
        if batching.priority_levels > 0 {
            settings.priorities = Some(u32::try_from(batching.priority_levels).unwrap_or(u32::MAX));
            settings.priority_default = Some(u32::try_from(batching.default_priority_level).unwrap_or(u32::MAX));
        }
        for (&level, policy) in &batching.priority_policies {
            let known =
                usize::try_from(level).ok().filter(|&level| level > 0 && level as u64 <= batching.priority_levels);
            let Some(level) = known.filter(|&level| level <= LEVELS_MAX) else {
                let levels = batching.priority_levels;
                return Err(format!("priority_queue_policy is for level {level}, but priority_levels is {levels}"));
            };
            if settings.levels.len() < level {
                settings.levels.resize(level, Level { wait_max: settings.wait_max, ..Level::default() });
            }
            settings.levels[level - 1] = Level {
                jobs_max: policy.jobs_max().unwrap_or(usize::MAX),
                wait_max: policy.wait_max("priority_queue_policy", ignored),
            };
        }
        settings.check_numbers()?;
        Ok(settings)
    }

    /// Takes over what `ours` says.
    pub(super) fn override_with(&mut self, ours: BatchingSettings) -> Result<(), String> {
        self.enabled = ours.enabled.or(self.enabled);
        self.rows_max = ours.rows_max.or(self.rows_max);
        if !ours.sizes.is_empty() {
            self.sizes = ours.sizes;
        }
        if !ours.sizes_preferred.is_empty() {
            self.sizes_preferred = ours.sizes_preferred;
        }
        self.delay_max = ours.delay_max.or(self.delay_max);
        self.queue_max = ours.queue_max.or(self.queue_max);
        self.queue_bytes_max = ours.queue_bytes_max.or(self.queue_bytes_max);
        if ours.wait_max.is_some() {
            self.wait_max = ours.wait_max;
            self.levels.iter_mut().for_each(|level| level.wait_max = ours.wait_max);
        }
        self.priorities = ours.priorities.or(self.priorities);
        self.priority_default = ours.priority_default.or(self.priority_default);
        self.ageing = ours.ageing.or(self.ageing);
        self.pad = ours.pad.or(self.pad.take());
        self.check_numbers()
    }

    /// Checks what must agree with the model's inputs and outputs.
    pub(super) fn check(&self, signature: &Signature) -> Result<(), String> {
        match &self.pad {
            Some(declared) => Pad::new(signature, declared).map(drop).map_err(|error| format!("batching.pad: {error}")),
            None => Ok(()),
        }
    }

    /// What a queue makes of it, with the server's own bounds where nothing is said.
    pub fn policy(&self, defaults: &QueuePolicy) -> QueuePolicy {
        let sorted = |sizes: &[usize]| {
            let mut sizes = sizes.to_vec();
            sizes.sort_unstable();
            sizes.dedup();
            sizes
        };
        let largest = self.sizes.iter().copied().max();
        let mut levels = self.levels.clone();
        levels.resize(
            self.priorities.unwrap_or(1).max(1) as usize,
            Level { wait_max: self.wait_max, ..Level::default() },
        );
        QueuePolicy {
            rows_max: self.rows_max.or(largest).unwrap_or(defaults.rows_max).max(1),
            sizes: sorted(&self.sizes),
            sizes_preferred: sorted(&self.sizes_preferred),
            delay_max: self.delay_max.unwrap_or(defaults.delay_max),
            jobs_max: self.queue_max.unwrap_or(defaults.jobs_max).max(1),
            bytes_max: self.queue_bytes_max.unwrap_or(defaults.bytes_max),
            level_default: self.priority_default.unwrap_or(1),
            levels,
            ageing: self.ageing.unwrap_or(defaults.ageing),
            pad: self
                .pad
                .as_ref()
                .map(|pad| PadPolicy { lengths: sorted(&pad.lengths), waste_max: pad.waste_max.unwrap_or(WASTE_MAX) }),
            ..defaults.clone()
        }
    }

    fn check_numbers(&self) -> Result<(), String> {
        let rows_max = self.rows_max.unwrap_or(usize::MAX);
        for (name, sizes) in [("sizes", &self.sizes), ("sizes_preferred", &self.sizes_preferred)] {
            if let Some(size) = sizes.iter().find(|&&size| size == 0 || size > rows_max) {
                return Err(format!("batching.{name} has {size}; expected 1 to rows_max, which is {rows_max}"));
            }
        }
        let levels = self.priorities.unwrap_or(1);
        if levels == 0 || levels as usize > LEVELS_MAX {
            return Err(format!("batching.priorities is {levels}; expected 1 to {LEVELS_MAX}"));
        }
        let default = self.priority_default.unwrap_or(1);
        if default == 0 || default > levels {
            return Err(format!("batching.priority_default is {default}; expected 1 to priorities, which is {levels}"));
        }
        let Some(pad) = &self.pad else { return Ok(()) };
        if let Some(length) = pad.lengths.iter().find(|&&length| length == 0 || length > LENGTH_MAX) {
            return Err(format!("batching.pad.lengths has {length}; expected 1 to {LENGTH_MAX}"));
        }
        match pad.waste_max {
            Some(waste) if !(0.0..=100.0).contains(&waste) => {
                Err(format!("batching.pad.waste_max is {waste}; expected a fraction such as 0.2"))
            }
            _ => Ok(()),
        }
    }
}

impl super::pbtxt::PriorityPolicy {
    fn jobs_max(self) -> Option<usize> {
        self.queue_size_max.filter(|&size| size > 0).map(|size| size as usize)
    }

    /// How long a request may wait. Triton lets one that waited too long wait on behind the others if it is asked to;
    /// that is not offered, and told.
    fn wait_max(self, name: &str, ignored: &mut Vec<String>) -> Option<Duration> {
        if self.timeout_action == TimeoutAction::Delay {
            ignored.push(format!("dynamic_batching.{name}.timeout_action: DELAY"));
            return None;
        }
        self.default_timeout.filter(|timeout| !timeout.is_zero())
    }
}

/// Reads `"2ms"`, `"1s"`, `"500us"`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "us" | "µs" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        _ => Duration::ZERO,
    };
    match number.parse::<u32>() {
        Ok(number) if !unit.is_zero() => Ok(Some(unit * number)),
        _ => Err(serde::de::Error::custom(format!(
            "{text:?} is no duration: expected such as \"500us\", \"2ms\", \"1s\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_toml(text: &str) -> Result<BatchingSettings, String> {
        let mut settings = BatchingSettings::default();
        settings.override_with(toml::from_str(text).map_err(|error| error.to_string())?)?;
        Ok(settings)
    }

    fn policy(settings: &BatchingSettings) -> QueuePolicy {
        settings.policy(&QueuePolicy::default())
    }

    #[test]
    fn what_is_not_said_is_the_servers() {
        assert_eq!(policy(&BatchingSettings::default()), QueuePolicy::default());
    }

    #[test]
    fn a_table_becomes_a_policy() {
        let settings = of_toml(
            "sizes = [8, 1, 4, 8]\nqueue_bytes_max = 1000\nwait_max = \"50ms\"\npriorities = 3\n\
             priority_default = 2\nageing = \"5s\"\n[pad]\naxis = \"length\"\nlengths = [32, 16]",
        )
        .unwrap();
        let policy = policy(&settings);
        assert_eq!((policy.sizes.as_slice(), policy.rows_max), (&[1, 4, 8][..], 8));
        assert_eq!((policy.bytes_max, policy.ageing), (1000, Duration::from_secs(5)));
        assert_eq!(policy.levels.len(), 3);
        assert!(policy.levels.iter().all(|level| level.wait_max == Some(Duration::from_millis(50))));
        assert_eq!([0, 1, 3, 4].map(|priority| policy.level(priority)), [1, 0, 2, 1]);
        assert_eq!(policy.pad, Some(PadPolicy { lengths: vec![16, 32], waste_max: WASTE_MAX }));
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = of_toml(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn numbers_that_make_no_sense_are_told() {
        refused("size = [4]", "unknown field `size`");
        refused("rows_max = 4\nsizes = [8]", "sizes has 8; expected 1 to rows_max, which is 4");
        refused("sizes_preferred = [0]", "sizes_preferred has 0");
        refused("priorities = 100", "expected 1 to 64");
        refused("priorities = 2\npriority_default = 3", "expected 1 to priorities, which is 2");
        refused("pad = { axis = \"n\", waste_max = -1.0 }", "waste_max is -1");
        refused("pad = { axis = \"n\", lengths = [0] }", "lengths has 0");
        refused("pad = { axes = \"n\" }", "unknown field `axes`");
    }

    fn of_pbtxt(text: &str) -> (Result<BatchingSettings, String>, Vec<String>) {
        let config = super::super::pbtxt::parse(text).unwrap();
        let mut ignored = Vec::new();
        (BatchingSettings::of_pbtxt(config.max_batch_size, config.dynamic_batching, &mut ignored), ignored)
    }

    #[test]
    fn tritons_file_becomes_a_policy() {
        let (settings, ignored) = of_pbtxt(
            "max_batch_size: 16 dynamic_batching { preferred_batch_size: [8, 4] max_queue_delay_microseconds: 100 \
             preserve_ordering: true priority_levels: 3 default_priority_level: 2 \
             default_queue_policy { default_timeout_microseconds: 5000 max_queue_size: 32 } \
             priority_queue_policy { key: 1 value { max_queue_size: 4 } } \
             priority_queue_policy { key: 3 value { timeout_action: DELAY default_timeout_microseconds: 7 } } }",
        );
        let policy = policy(&settings.unwrap());
        assert_eq!((policy.rows_max, policy.sizes_preferred.as_slice()), (16, &[4, 8][..]));
        assert_eq!((policy.delay_max, policy.jobs_max), (Duration::from_micros(100), 32));
        let wait_max = Some(Duration::from_millis(5));
        let levels = [
            Level { jobs_max: 4, wait_max: None },
            Level { wait_max, ..Level::default() },
            Level { wait_max: None, ..Level::default() },
        ];
        assert_eq!((policy.levels.as_slice(), policy.level_default), (&levels[..], 2));
        assert_eq!(
            ignored,
            ["dynamic_batching.preserve_ordering", "dynamic_batching.priority_queue_policy.timeout_action: DELAY"]
        );
    }

    #[test]
    fn tritons_mistakes_are_told() {
        let refused = |text: &str, expected: &str| {
            let error = of_pbtxt(text).0.unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        refused("max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", "expected 1 to rows_max");
        refused("dynamic_batching { priority_levels: 2 }", "priority_default is 0");
        refused(
            "dynamic_batching { priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 2 value { } } }",
            "for level 2, but priority_levels is 1",
        );
    }
}
