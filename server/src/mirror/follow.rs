//! When is a store asked, what is done with what it says, and who is told?
//!
//! One thread per store, which gives way to those that serve. It lists, plans, fetches a few objects at a time, and publishes
//! each model once everything of it is here. Nothing that fails takes away what serves.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::Sender;
use futures_util::StreamExt;
use futures_util::stream;
use ring::rand::{SecureRandom, SystemRandom};
use tiltyard_runtime::artifact::Files as Places;
use tiltyard_runtime::repository::SETTINGS_FILES;
use tiltyard_runtime::repository::policy::VersionPolicy;
use tiltyard_runtime::repository::settings::Settings;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::cache::Cache;
use super::fetch::{FetchError, fetch};
use super::figures::Figures;
use super::plan::{Change, Files, Object, Place, Plan, Sorted};
use super::source::Source;
use crate::clock;
use crate::config::Config;
use crate::reload::Live;

/// Objects on their way at a time.
const AT_ONCE: usize = 4;

/// Between two lines about how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Between two questions to a store that does not answer, at most; or the configured interval where that is longer.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Rounds in a row that a store may change under our hands, until that is trouble.
const OVERTAKEN_MAX: u32 = 3;

/// Problems that are remembered as told.
const TOLD_MAX: usize = 1000;

/// Follows one store.
pub(super) struct Follower {
    pub(super) source: Source,
    pub(super) cache: Cache,
    pub(super) live: Arc<Live>,
    pub(super) figures: Arc<Figures>,
    /// Whether to go on once everything is here.
    pub(super) goes_on: bool,
    pub(super) told: HashSet<String>,
    /// What is wrong now, its figures left out: they change with each attempt.
    pub(super) trouble: Option<String>,
}

/// How a round ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// The cache is what the store lists.
    Done,
    /// The store changed meanwhile: another listing will tell.
    Overtaken(String),
    /// Some models are as they were before, for the reason of one of them.
    Partly(String),
    /// Nothing is known of the store.
    Silent(String),
}

impl Follower {
    /// Follows until nobody wants it any more. Sends once when there is something to look at: what the store has, or what
    /// the cache has where the store does not answer.
    pub(super) async fn follow(mut self, begin: Sender<()>) {
        if let Err(error) = self.cache.verify() {
            tracing::error!(store = self.figures.url, %error, "the cache cannot be read");
        }
        self.count();
        let mut begin = Some(begin);
        let (mut failures, mut overtaken) = (0_u32, 0);
        loop {
            let round = match self.round().await {
                Round::Overtaken(reason) if overtaken == OVERTAKEN_MAX => Round::Partly(reason),
                round => round,
            };
            overtaken = if let Round::Overtaken(_) = round { overtaken + 1 } else { 0 };
            failures = if let Round::Partly(_) | Round::Silent(_) = round { failures + 1 } else { 0 };
            self.tell(&round);
            let worth_a_look = round == Round::Done || !self.cache.held().is_empty();
            if worth_a_look && let Some(begin) = begin.take() {
                if let Round::Silent(_) = round {
                    tracing::warn!(store = self.figures.url, "does not answer: what the cache has of it is served");
                }
                // Nobody waits where the server is ending.
                let _ = begin.send(());
                if !self.goes_on {
                    return;
                }
            }
            sleep(pause(&self.live.config(), failures)).await;
        }
    }

    /// Asks once, and does what follows from the answer.
    pub(super) async fn round(&mut self) -> Round {
        let listed = match self.source.list().await {
            Ok(listed) if listed.is_empty() && !self.cache.held().is_empty() => {
                Err("it lists nothing any more, so that it counts as out of reach".to_owned())
            }
            other => other,
        };
        let listed = match listed {
            Ok(listed) => listed,
            Err(reason) => {
                self.figures.list_failures.fetch_add(1, Relaxed);
                return Round::Silent(reason);
            }
        };
        let sorted = Sorted::of(&listed);
        // They decide which versions are wanted. What fails here fails again below, where it is told.
        let settings = sorted.settings_to_fetch(self.cache.held());
        self.expect(&settings);
        stream::iter(&settings)
            .map(|object| fetch(&self.source, &self.cache.parts, object, &self.figures))
            .buffer_unordered(AT_ONCE)
            .for_each(|_| std::future::ready(()))
            .await;
        let default = self.live.config().version_policy.clone();
        let plan = sorted.plan(self.cache.held(), |model| {
            policy_of(&self.cache, model, &sorted, &settings).unwrap_or_else(|| default.clone())
        });
        self.warn(&plan.problems);
        if listed.is_empty() {
            self.warn(&["it has no objects: expected some such as risk/1/model.onnx".to_owned()]);
        }
        let round = self.carry_out(plan).await;
        expect(&self.figures, [].iter());
        self.count();
        if let Err(error) = self.cache.parts.keep_only(listed.iter()) {
            tracing::warn!(store = self.figures.url, %error, "what is not wanted any more cannot be removed");
        }
        round
    }

    /// Tells each problem once.
    fn warn(&mut self, problems: &[String]) {
        if self.told.len() > TOLD_MAX {
            self.told.clear();
        }
        for problem in problems {
            if self.told.insert(problem.clone()) {
                tracing::warn!(store = self.figures.url, "{problem}");
            }
        }
    }

    /// Fetches and publishes, model by model.
    async fn carry_out(&mut self, plan: Plan) -> Round {
        let (source, cache, figures) = (&self.source, &mut self.cache, self.figures.as_ref());
        let mut round = Round::Done;
        let mut waiting: BTreeMap<&str, Waiting> = BTreeMap::new();
        let mut objects = Vec::new();
        for (model, change) in &plan.changes {
            objects.extend(change.fetch.iter().map(|object| (model.as_str(), object)));
            waiting.insert(model, Waiting { change, missing: change.fetch.len(), fetched: Files::new() });
        }
        // What leaves, or needs nothing, waits for nobody.
        for (model, waiting) in waiting.iter().filter(|(_, waiting)| waiting.missing == 0) {
            round = round.and(waiting.publish(cache, model, figures));
        }
        if objects.is_empty() {
            return round;
        }
        expect(figures, objects.iter().map(|(_, object)| *object));
        let (total, begun) = (objects.len(), clock::now());
        let parts = &cache.parts.clone();
        let mut arriving = stream::iter(objects)
            .map(|(model, object)| async move { (model, object, fetch(source, parts, object, figures).await) })
            .buffer_unordered(AT_ONCE);
        let mut progress = interval(PROGRESS_INTERVAL);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        progress.tick().await;
        loop {
            let next = tokio::select! {
                next = arriving.next() => next,
                _ = progress.tick() => {
                    tell_progress(figures, total);
                    continue;
                }
            };
            let Some((model, object, outcome)) = next else { break };
            figures.pending_objects.fetch_sub(1, Relaxed);
            let Some(of_model) = waiting.get_mut(model) else { continue };
            match outcome {
                Ok(held) => {
                    of_model.fetched.insert(object.path.clone(), held);
                    of_model.missing -= 1;
                    if of_model.missing == 0 {
                        round = round.and(of_model.publish(cache, model, figures));
                    }
                }
                Err(error) => round = round.and(note_failure(figures, &object.path, error)),
            }
        }
        let seconds = (clock::now() - begun).as_secs_f64();
        tracing::info!(store = figures.url, objects = total, seconds, "fetched");
        round
    }

    /// Tells what changed since the last round.
    fn tell(&mut self, round: &Round) {
        let store = self.figures.url.as_str();
        let reason = match round {
            Round::Overtaken(_) => return,
            Round::Done => None,
            Round::Partly(reason) | Round::Silent(reason) => Some(reason),
        };
        self.figures.set_trouble(reason.map(String::as_str));
        if *round == Round::Done {
            self.figures.synced_ms.store(clock::unix_ms(), Relaxed);
        }
        let trouble = reason.map(|reason| reason.chars().filter(|letter| !letter.is_ascii_digit()).collect::<String>());
        if trouble == self.trouble {
            return;
        }
        match round {
            Round::Overtaken(_) => {}
            Round::Done => tracing::info!(store, "answers again, and the cache is what it has"),
            Round::Partly(reason) => {
                tracing::error!(store, reason, "some models are as they were: what was fetched before is served");
            }
            Round::Silent(reason) => {
                tracing::error!(store, reason, "cannot be listed: what was fetched before is served");
            }
        }
        self.trouble = trouble;
    }

    /// Counts what is held.
    fn count(&self) {
        let held = self.cache.held();
        self.figures.held_objects.store(held.len() as u64, Relaxed);
        self.figures.held_bytes.store(held.values().map(|held| held.size).sum(), Relaxed);
    }

    fn expect(&self, objects: &[Object]) {
        expect(&self.figures, objects.iter());
    }
}

impl Round {
    /// The worse of two.
    fn and(self, other: Round) -> Round {
        match (&self, &other) {
            (Round::Silent(_) | Round::Partly(_), _) | (Round::Overtaken(_), Round::Done) => self,
            _ => other,
        }
    }
}

/// A model of which something is on its way.
struct Waiting<'a> {
    change: &'a Change,
    missing: usize,
    fetched: Files,
}

impl Waiting<'_> {
    /// Everything is here.
    fn publish(&self, cache: &mut Cache, model: &str, figures: &Figures) -> Round {
        if let Err(error) = cache.publish(self.change, &self.fetched) {
            return note_failure(figures, model, FetchError::Disk(error));
        }
        let new: Vec<String> = self.change.places.keys().map(Place::folder).collect();
        let gone: Vec<String> = self.change.leave.iter().map(Place::folder).collect();
        tracing::info!(store = figures.url, ?new, ?gone, "the cache follows the store");
        Round::Done
    }
}

/// Notes what is to come, instead of what was expected before.
fn expect<'a>(figures: &Figures, objects: impl Iterator<Item = &'a Object>) {
    let (mut count, mut bytes) = (0, 0_u64);
    for object in objects {
        count += 1;
        bytes = bytes.saturating_add(object.size.unwrap_or(0));
    }
    figures.pending_objects.store(count, Relaxed);
    figures.pending_bytes.store(bytes, Relaxed);
}

fn tell_progress(figures: &Figures, total: usize) {
    let pending = figures.pending_objects.load(Relaxed);
    let (objects, bytes_to_come) = (total as u64 - pending.min(total as u64), figures.pending_bytes.load(Relaxed));
    tracing::info!(store = figures.url, objects, of = total, bytes_to_come, "fetching");
}

/// Counts that an object could not be had, or a model not be published, and says what that makes of the round.
fn note_failure(figures: &Figures, name: &str, error: FetchError) -> Round {
    let reason = match error {
        FetchError::Changed(reason) => {
            tracing::info!(
                store = figures.url,
                object = name,
                reason,
                "changed while it was fetched, which begins again"
            );
            return Round::Overtaken(format!("{name:?} is never what was listed: {reason}"));
        }
        FetchError::Failed(reason) => format!("{name:?}: {reason}"),
        FetchError::Disk(error) => format!("{name:?} cannot be kept on this disk: {error}"),
    };
    figures.fetch_failures.fetch_add(1, Relaxed);
    Round::Partly(reason)
}

/// Which versions a model itself wants, by its settings as they are listed now; `None` where it does not say.
fn policy_of(cache: &Cache, model: &str, listed: &Sorted, fetched: &[Object]) -> Option<VersionPolicy> {
    if model.is_empty() {
        return None;
    }
    let parts = cache.parts.clone();
    let folders = [cache.root.as_path(), parts.folder()];
    let mut places = Places::within(folders).ok()?;
    for name in SETTINGS_FILES {
        let path = format!("{model}/{name}");
        if !listed.has_settings(model, &path) {
            continue;
        }
        match fetched.iter().find(|object| object.path == path) {
            Some(object) => places.add(name, parts.place(&path, &object.tag)),
            None => places.add(name, cache.path(&path)),
        }
    }
    Settings::read(&places).ok()?.version_policy
}

/// How long until the next question: longer after each failure, and not in step with others who wait.
fn pause(config: &Config, failures: u32) -> Duration {
    let interval = config.store_interval;
    let longest = interval.saturating_mul(2_u32.saturating_pow(failures.min(16)));
    let longest = if failures == 0 { interval } else { longest.min(PAUSE_MAX.max(interval)) };
    let mut byte = [0];
    // Without randomness, all wait for equally long.
    let _ = SystemRandom::new().fill(&mut byte);
    longest.mul_f64(1.0 - f64::from(byte[0]) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_answer_is_asked_less_often() {
        #[track_caller]
        fn check(interval: Duration, failures: u32, longest: Duration) {
            let config = Config { store_interval: interval, ..Config::default() };
            for _ in 0..100 {
                let pause = pause(&config, failures);
                assert!((longest.mul_f64(0.75)..=longest).contains(&pause), "{pause:?}");
            }
        }
        let seconds = Duration::from_secs;
        check(seconds(1), 0, seconds(1));
        check(seconds(1), 3, seconds(8));
        check(seconds(1), u32::MAX, PAUSE_MAX);
        check(seconds(600), 0, seconds(600));
        check(seconds(600), 5, seconds(600));
    }

    #[test]
    fn the_worst_of_a_round_is_told() {
        let overtaken = || Round::Overtaken("o".to_owned());
        let partly = |reason: &str| Round::Partly(reason.to_owned());
        assert_eq!(Round::Done.and(Round::Done), Round::Done);
        assert_eq!(Round::Done.and(overtaken()).and(Round::Done), overtaken());
        assert_eq!(overtaken().and(partly("first")).and(partly("second")).and(overtaken()), partly("first"));
    }
}
