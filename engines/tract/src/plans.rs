//! Which plan runs a request of these shapes, and when is a new one built?
//!
//! Every model has an open plan, one for any shape, unless tract can make none. Where exact plans are faster, one is
//! built in the background for a shape that comes repeatedly, and used from then on. Where there is no open plan,
//! the first request of a shape waits for its exact plan. Exact plans hold packed copies of the weights, so few are
//! kept.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::{Shape, Signature};

use crate::background::Background;
use crate::blueprint::{Blueprint, Plan};

/// Plans kept of one model, besides the open one: so many, or fewer if the copies of the weights came to more bytes,
/// but always a few.
pub(crate) const PLANS_MAX: usize = 16;
const PLANS_MIN: usize = 2;
const PLAN_BYTES_MAX: u64 = 512 << 20;
/// Shapes remembered of one model, with a plan or without.
const SHAPES_MAX: usize = 64;
/// How often a shape comes before a plan is built for it alone.
const SIGHTINGS_MIN: u32 = 2;
/// A plan that so many requests did not use gives way to one for a shape that comes now. It keeps a model with more
/// shapes than plans from building all the time.
const IDLE_REQUESTS_MIN: u64 = 64;

/// What a plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Requests that give these inputs, of any shape.
    Open(Vec<bool>),
    /// Requests of these shapes; `None` is an input left out.
    Exact(Vec<Option<Shape>>),
}

enum State {
    Seen(u32),
    /// Waits for the background thread.
    Queued,
    /// Some thread builds it; the others wait on the condition.
    Building,
    Ready(Arc<Plan>),
    Refused(EngineError),
}

struct Slot {
    key: Key,
    state: State,
    used: u64,
}

struct Slots {
    slots: Vec<Slot>,
    plans_max: usize,
    /// Counts lookups: the time by which the longest unused slot is found.
    lookups: u64,
}

/// What a graph's operators tell of how it is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// Whether plans for exact shapes are faster.
    pub(crate) prefers_exact: bool,
    /// An operator in which a NaN would become a number.
    pub(crate) nan_loser: Option<&'static str>,
}

/// The plans of a model, shared by its sessions.
pub(crate) struct Plans {
    blueprint: Blueprint,
    required: Vec<bool>,
    open: Option<Arc<Plan>>,
    traits: Traits,
    slots: Mutex<Slots>,
    built: Condvar,
    background: Arc<Background>,
}

/// The plan for a request.
pub(crate) struct Choice {
    pub(crate) plan: Arc<Plan>,
    /// Whether it stays the choice for all requests that give the same inputs and that it fits.
    pub(crate) settled: bool,
}

impl Plans {
    pub(crate) fn new(blueprint: Blueprint, open: Option<Plan>, traits: Traits, background: Arc<Background>) -> Plans {
        let plans_max = plans_max(blueprint.weight_bytes());
        Plans {
            required: blueprint.required(),
            blueprint,
            open: open.map(Arc::new),
            traits,
            slots: Mutex::new(Slots { slots: Vec::new(), plans_max, lookups: 0 }),
            built: Condvar::new(),
            background,
        }
    }

    pub(crate) fn signature(&self) -> &Signature {
        self.blueprint.signature()
    }

    /// An operator in which a request's NaN would become a number.
    pub(crate) fn nan_loser(&self) -> Option<&'static str> {
        self.traits.nan_loser
    }

    /// The plan for a request whose inputs have these shapes. Builds one, and so takes up to seconds, where there is
    /// none that could do.
    pub(crate) fn choose(self: &Arc<Self>, shapes: &[Option<Shape>]) -> Result<Choice, EngineError> {
        let length = |input: usize, axis: usize| shapes[input].as_ref().and_then(|shape| shape.get(axis).copied());
        let Some(open) = self.open_for(shapes).filter(|open| open.fits(length)) else {
            return Ok(Choice { plan: self.ready(Key::Exact(shapes.to_vec()))?, settled: false });
        };
        if !(self.traits.prefers_exact && open.is_open) {
            return Ok(Choice { plan: open, settled: true });
        }
        let plan = self.exact_if_ready(shapes).unwrap_or(open);
        Ok(Choice { plan, settled: false })
    }

    /// The open plan for requests that give the inputs that have a shape here.
    fn open_for(&self, shapes: &[Option<Shape>]) -> Option<Arc<Plan>> {
        let open = self.open.as_ref()?;
        if shapes.iter().map(Option::is_some).eq(self.required.iter().copied()) {
            return Some(Arc::clone(open));
        }
        self.ready(Key::Open(shapes.iter().map(Option::is_some).collect())).ok()
    }

    /// The exact plan if it is there. If not, and the shape keeps coming, asks for it.
    fn exact_if_ready(self: &Arc<Self>, shapes: &[Option<Shape>]) -> Option<Arc<Plan>> {
        let mut slots = self.lock();
        let room = slots.has_room();
        let slot =
            slots.entry(|key| matches!(key, Key::Exact(known) if known == shapes), || Key::Exact(shapes.to_vec()));
        match &mut slot.state {
            State::Ready(plan) => return Some(Arc::clone(plan)),
            State::Seen(sightings) => {
                *sightings += 1;
                if *sightings >= SIGHTINGS_MIN && room && self.background.ask(Arc::downgrade(self), slot.key.clone()) {
                    slot.state = State::Queued;
                }
            }
            State::Queued | State::Building | State::Refused(_) => {}
        }
        None
    }

    /// The plan for `key`, built by this thread unless another is at it.
    fn ready(&self, key: Key) -> Result<Arc<Plan>, EngineError> {
        let mut slots = self.lock();
        loop {
            let slot = slots.entry(|known| *known == key, || key.clone());
            match &slot.state {
                State::Ready(plan) => return Ok(Arc::clone(plan)),
                State::Refused(error) => return Err(error.clone()),
                State::Building => slots = self.built.wait(slots).unwrap_or_else(PoisonError::into_inner),
                State::Seen(_) | State::Queued => {
                    slot.state = State::Building;
                    break;
                }
            }
        }
        drop(slots);
        self.build(&key)
    }

    /// Builds what was asked for in the background, unless a request has done so meanwhile or it was given up.
    pub(crate) fn build_queued(&self, key: &Key) {
        let mut slots = self.lock();
        let Some(slot) = slots.slots.iter_mut().find(|slot| slot.key == *key) else { return };
        if !matches!(slot.state, State::Queued) {
            return;
        }
        slot.state = State::Building;
        drop(slots);
        if let Err(error) = self.build(key) {
            tracing::debug!(%error, ?key, "no exact plan: the general one stays in use");
        }
    }

    /// Builds the plan of a slot that is marked as being built.
    fn build(&self, key: &Key) -> Result<Arc<Plan>, EngineError> {
        let built = match key {
            Key::Open(given) => self.blueprint.open_plan(given),
            Key::Exact(shapes) => self.blueprint.exact_plan(shapes),
        };
        let built = built.map(Arc::new);
        let mut slots = self.lock();
        let slot = slots.entry(|known| known == key, || key.clone());
        slot.state = match &built {
            Ok(plan) => State::Ready(Arc::clone(plan)),
            Err(error) => State::Refused(error.clone()),
        };
        let evicted = slots.evict();
        drop(slots);
        self.built.notify_all();
        // Freed only now, since that takes a while and nobody need wait for it.
        drop(evicted);
        built
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing that can panic leaves the slots half changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many plans there are besides the open one.
    #[cfg(test)]
    pub(crate) fn ready_count(&self) -> usize {
        self.lock().ready().count()
    }

    #[cfg(test)]
    pub(crate) fn has_exact(&self, shapes: &[Option<Shape>]) -> bool {
        self.lock().ready().any(|slot| matches!(&slot.key, Key::Exact(known) if known == shapes))
    }

    #[cfg(test)]
    pub(crate) fn has_open(&self) -> bool {
        self.open.is_some()
    }
}

/// How many plans may be kept of a model whose weights are so large.
fn plans_max(weight_bytes: u64) -> usize {
    let affordable = PLAN_BYTES_MAX / weight_bytes.max(1);
    usize::try_from(affordable).unwrap_or(usize::MAX).clamp(PLANS_MIN, PLANS_MAX)
}

impl Slots {
    /// The slot that `is_it` finds, or a new one for `key`; it counts as used now.
    fn entry(&mut self, is_it: impl Fn(&Key) -> bool, key: impl FnOnce() -> Key) -> &mut Slot {
        self.lookups += 1;
        let position = self.slots.iter().position(|slot| is_it(&slot.key)).unwrap_or_else(|| {
            if self.slots.len() >= SHAPES_MAX {
                self.forget_one();
            }
            self.slots.push(Slot { key: key(), state: State::Seen(0), used: 0 });
            self.slots.len() - 1
        });
        let slot = &mut self.slots[position];
        slot.used = self.lookups;
        slot
    }

    /// Forgets the shape that was not seen for longest. One whose plan is being built is kept: threads wait for it.
    fn forget_one(&mut self) {
        let oldest = self.oldest(|state| !matches!(state, State::Building | State::Ready(_)));
        if let Some(position) = oldest {
            self.slots.swap_remove(position);
        }
    }

    /// Takes out the plans that are too many, the longest unused first.
    fn evict(&mut self) -> Vec<Slot> {
        let mut evicted = Vec::new();
        while self.ready().count() > self.plans_max
            && let Some(position) = self.oldest(|state| matches!(state, State::Ready(_)))
        {
            evicted.push(self.slots.swap_remove(position));
        }
        evicted
    }

    /// Whether a further plan may be built in the background: there is a free place, or one that is hardly used.
    fn has_room(&self) -> bool {
        let coming = self.slots.iter().filter(|slot| matches!(slot.state, State::Queued | State::Building)).count();
        let idle = self.ready().filter(|slot| self.lookups.saturating_sub(slot.used) >= IDLE_REQUESTS_MIN).count();
        self.ready().count() + coming < self.plans_max + idle
    }

    fn ready(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| matches!(slot.state, State::Ready(_)))
    }

    fn oldest(&self, may_go: impl Fn(&State) -> bool) -> Option<usize> {
        let candidates = self.slots.iter().enumerate().filter(|(_, slot)| may_go(&slot.state));
        candidates.min_by_key(|(_, slot)| slot.used).map(|(position, _)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_models_keep_fewer_plans() {
        assert_eq!([0, 1 << 20, 64 << 20, 8 << 30].map(plans_max), [PLANS_MAX, PLANS_MAX, 8, PLANS_MIN]);
    }
}
