//! Who tells a request that its time is over?
//!
//! Hardly a request ever hears of it, so that it must cost next to nothing to ask. A request that has to wait leaves a note
//! with its event loop and takes it back when it is answered. One task of the loop looks at all notes when the earliest time
//! that it knows of is over. What is answered by then is seen no more, and an idle loop sleeps.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tiltyard_types::{Error, ErrorKind, Moment};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use crate::clock;

/// Between two looks at all notes, so that many different times cannot keep a loop busy. Timers are no finer.
const LOOKS_APART: Duration = Duration::from_millis(1);

thread_local! {
    static HERE: RefCell<Option<Loop>> = const { RefCell::new(None) };
}

/// The notes of one event loop.
struct Loop {
    number: usize,
    notes: Notes,
    sooner: Arc<Notify>,
    /// Whether the time of all requests is over.
    over: bool,
}

/// Keeps the time of all requests of this thread's event loop, on a runtime that has no other thread and that the thread
/// outlives by nothing. Elsewhere each request has a timer.
pub(crate) fn install() {
    static LOOPS: AtomicUsize = AtomicUsize::new(0);
    let sooner = Arc::new(Notify::new());
    let number = LOOPS.fetch_add(1, Relaxed);
    HERE.set(Some(Loop { number, notes: Notes::default(), sooner: Arc::clone(&sooner), over: false }));
    tokio::spawn(async move {
        loop {
            let now = clock::now();
            let look = HERE.with_borrow_mut(|here| here.as_mut().map(|here| here.notes.look(now)));
            let Some((over, next)) = look else { return };
            over.into_iter().for_each(Waker::wake);
            match next {
                None => sooner.notified().await,
                Some(next) => tokio::select! {
                    () = sleep(next.since(now)) => {}
                    () = sooner.notified() => {}
                },
            }
        }
    });
}

/// The time of all requests that wait on this thread's event loop is over, and that of those to come.
pub(crate) fn end() {
    let wakers = HERE.with_borrow_mut(|here| {
        let Some(here) = here else { return Vec::new() };
        here.over = true;
        here.notes.look(Moment::from_nanos(u64::MAX)).0
    });
    wakers.into_iter().for_each(Waker::wake);
}

/// The failure of what was not ready in its time, in words for its client; or else of what the server's end cut off.
pub(crate) fn late(message: String) -> Error {
    match is_over() {
        true => Error::new(ErrorKind::Draining, "the server is shutting down, and its time to finish requests is over"),
        false => Error::new(ErrorKind::Deadline, message),
    }
}

/// Whether [`end`] was called on this thread.
fn is_over() -> bool {
    HERE.with_borrow(|here| here.as_ref().is_some_and(|here| here.over))
}

/// What `future` gives, or `None` where it is not ready by `until`, give or take a millisecond.
pub(crate) fn within<F: Future>(until: Moment, future: F) -> Within<F> {
    Within { future, until, wait: Wait::NotYet }
}

pin_project! {
    /// See [`within`].
    pub(crate) struct Within<F> {
        #[pin]
        future: F,
        until: Moment,
        wait: Wait,
    }
}

/// Who will wake a request when its time is over.
enum Wait {
    /// Nobody: it was not looked at, or was ready when it was.
    NotYet,
    /// The task of its event loop.
    Noted(Noted),
    /// A timer of its own.
    Timer(Pin<Box<Sleep>>),
}

impl<F: Future> Future for Within<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Some(output));
        }
        match this.wait {
            Wait::NotYet if is_over() => return Poll::Ready(None),
            Wait::NotYet => match Noted::leave(*this.until, context.waker()) {
                Some(noted) => *this.wait = Wait::Noted(noted),
                None => {
                    let mut timer = Box::pin(sleep(this.until.since(clock::now())));
                    if timer.as_mut().poll(context).is_ready() {
                        return Poll::Ready(None);
                    }
                    *this.wait = Wait::Timer(timer);
                }
            },
            Wait::Noted(_) if *this.until <= clock::now() || is_over() => return Poll::Ready(None),
            Wait::Noted(noted) => noted.renew(context.waker()),
            Wait::Timer(timer) => {
                ready!(timer.as_mut().poll(context));
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    }
}

/// A note that was left; it is taken back when this is dropped.
struct Noted {
    number: usize,
    place: Place,
}

impl Noted {
    /// `None` where this thread's event loop keeps no notes.
    fn leave(until: Moment, waker: &Waker) -> Option<Noted> {
        HERE.with_borrow_mut(|here| {
            let here = here.as_mut()?;
            let (place, is_first) = here.notes.leave(until, waker.clone());
            if is_first {
                here.sooner.notify_one();
            }
            Some(Noted { number: here.number, place })
        })
    }

    /// The waker of the last look is the one that counts.
    fn renew(&self, waker: &Waker) {
        drop(self.with_notes(|notes| notes.renew(self.place, waker)));
    }

    /// Gives back a waker that is of no use any more, since dropping it may end whole tasks, which have notes here too.
    ///
    /// On another thread there is nothing to do: the loop's task forgets the note when its time is over. A loop of a thread
    /// that ends has no notes any more.
    fn with_notes(&self, act: impl FnOnce(&mut Notes) -> Option<Waker>) -> Option<Waker> {
        let act = |here: &RefCell<Option<Loop>>| {
            let mut here = here.borrow_mut();
            act(&mut here.as_mut().filter(|here| here.number == self.number)?.notes)
        };
        HERE.try_with(act).ok().flatten()
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        drop(self.with_notes(|notes| notes.take_back(self.place)));
    }
}

/// Who is to be woken when, in no order.
#[derive(Default)]
struct Notes {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// When the next look is; `None` for never.
    looks_at: Option<Moment>,
}

#[derive(Default)]
struct Slot {
    /// Counts who had the slot, so that nobody takes back another's note.
    holder: u64,
    note: Option<(Moment, Waker)>,
}

/// Where a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    slot: usize,
    holder: u64,
}

impl Notes {
    /// Where the note is, and whether it asks for a look before the one that is planned.
    fn leave(&mut self, until: Moment, waker: Waker) -> (Place, bool) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[slot].note = Some((until, waker));
        let is_first = self.looks_at.is_none_or(|planned| until < planned);
        if is_first {
            self.looks_at = Some(until);
        }
        (Place { slot, holder: self.slots[slot].holder }, is_first)
    }

    fn renew(&mut self, place: Place, waker: &Waker) -> Option<Waker> {
        let slot = self.slots.get_mut(place.slot).filter(|slot| slot.holder == place.holder)?;
        let (_, known) = slot.note.as_mut()?;
        (!known.will_wake(waker)).then(|| std::mem::replace(known, waker.clone()))
    }

    fn take_back(&mut self, place: Place) -> Option<Waker> {
        let slot = self.slots.get_mut(place.slot).filter(|slot| slot.holder == place.holder)?;
        slot.holder += 1;
        self.free.push(place.slot);
        slot.note.take().map(|(_, waker)| waker)
    }

    /// Whom to wake now, and when to look again.
    fn look(&mut self, now: Moment) -> (Vec<Waker>, Option<Moment>) {
        let (mut over, mut earliest) = (Vec::new(), None::<Moment>);
        for (number, slot) in self.slots.iter_mut().enumerate() {
            match &slot.note {
                Some((until, _)) if *until <= now => {
                    over.extend(slot.note.take().map(|(_, waker)| waker));
                    slot.holder += 1;
                    self.free.push(number);
                }
                Some((until, _)) => earliest = Some(earliest.map_or(*until, |earliest| earliest.min(*until))),
                None => {}
            }
        }
        self.looks_at = earliest.map(|earliest| earliest.max(now + LOOKS_APART));
        (over, self.looks_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::pending;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    proptest! {
        /// Whatever comes and goes, a look wakes exactly those whose time is over and who still wait, and is planned no
        /// later than the first of the others needs it.
        #[test]
        fn all_who_are_late_are_woken(steps in proptest::collection::vec((0..3u8, 0..50u64), 0..60)) {
            let mut notes = Notes::default();
            let mut waiting: Vec<(Moment, Place, Arc<Woken>)> = Vec::new();
            let mut now = Moment::from_nanos(0);
            for (what, value) in steps {
                let millis = Duration::from_millis(value);
                match what {
                    0 => {
                        let woken = Arc::new(Woken(AtomicBool::new(false)));
                        let (place, _) = notes.leave(now + millis, Arc::clone(&woken).into());
                        waiting.push((now + millis, place, woken));
                    }
                    1 if !waiting.is_empty() => {
                        let (_, place, _) = waiting.swap_remove(value as usize % waiting.len());
                        prop_assert!(notes.take_back(place).is_some());
                        prop_assert!(notes.take_back(place).is_none(), "once more does no harm");
                    }
                    _ => {
                        now = now + millis;
                        let (over, next) = notes.look(now);
                        over.into_iter().for_each(Waker::wake);
                        prop_assert_eq!(next, notes.looks_at);
                        for (until, _, woken) in &waiting {
                            prop_assert_eq!(woken.0.load(Relaxed), *until <= now);
                        }
                        waiting.retain(|(until, ..)| *until > now);
                    }
                }
                let earliest = waiting.iter().map(|(until, ..)| *until).min();
                let latest_look = earliest.map(|earliest| earliest.max(now + LOOKS_APART));
                prop_assert!(latest_look.is_none_or(|latest| notes.looks_at.is_some_and(|look| look <= latest)));
                prop_assert_eq!(notes.slots.iter().filter(|slot| slot.note.is_some()).count(), waiting.len());
                prop_assert_eq!(notes.slots.len() - notes.free.len(), waiting.len());
            }
        }
    }

    #[test]
    fn a_time_that_is_over_ends_the_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let over = clock::now();
            assert_eq!(within(over, async { 7 }).await, Some(7), "what is ready needs no time");
            assert_eq!(within(over, pending::<()>()).await, None, "by a timer");
            install();
            assert_eq!(within(over, pending::<()>()).await, None, "by the loop's task");
            let soon = clock::now() + Duration::from_millis(3);
            let late = within(soon + Duration::from_secs(3600), tokio::time::sleep(Duration::ZERO));
            assert_eq!(tokio::join!(within(soon, pending::<()>()), late), (None, Some(())));
            assert!(soon <= clock::now(), "not before its time");
            let (hour, ends) = (clock::now() + Duration::from_secs(3600), async { end() });
            assert_eq!(super::late(String::new()).kind(), ErrorKind::Deadline);
            assert_eq!(tokio::join!(within(hour, pending::<()>()), ends), (None, ()), "all time is over");
            assert_eq!(super::late(String::new()).kind(), ErrorKind::Draining);
            assert_eq!(within(hour, pending::<()>()).await, None, "also for waits that begin now");
            HERE.with_borrow(|here| assert!(here.as_ref().unwrap().notes.slots.iter().all(|slot| slot.note.is_none())));
        });
    }
}
