//! How do threads take turns, so that a seed alone decides who goes next?
//!
//! Each actor is a thread of its own that goes only when it is told to, and stops where the code under test lets it: where
//! the clock is read and where the engine runs. No two ever go at once.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// What an actor does until its end.
pub(crate) type Task = Box<dyn FnOnce() + Send>;

/// How long an actor may go before it is taken to be stuck: on a lock that a paused one holds.
const GO_MAX: Duration = Duration::from_secs(20);

enum Go {
    Begin(Task),
    On,
}

#[derive(Clone, Copy, PartialEq)]
enum Stop {
    Paused,
    Done,
    Panicked,
}

struct Me {
    go: Receiver<Go>,
    stopped: Sender<Stop>,
}

thread_local! {
    static ME: RefCell<Option<Me>> = const { RefCell::new(None) };
    static RUNS_TURNS: Cell<bool> = const { Cell::new(false) };
}

/// A thread that goes when it is told to.
pub(crate) struct Actor {
    go: Sender<Go>,
    stopped: Receiver<Stop>,
    paused: bool,
}

impl Actor {
    /// Starts the thread. An event loop's runs what its turns bring.
    pub(crate) fn start(is_loop: bool) -> Actor {
        let ((go, goes), (stops, stopped)) = (bounded(1), bounded(1));
        thread::spawn(move || {
            RUNS_TURNS.set(is_loop);
            ME.set(Some(Me { go: goes.clone(), stopped: stops.clone() }));
            while let Ok(Go::Begin(task)) = goes.recv() {
                let ended = catch_unwind(AssertUnwindSafe(task));
                let _ = stops.send(if ended.is_ok() { Stop::Done } else { Stop::Panicked });
            }
        });
        Actor { go, stopped, paused: false }
    }

    /// Whether it is in the middle of something.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Lets it begin a task. Fails with what went wrong.
    pub(crate) fn begin(&mut self, task: Task) -> Result<(), String> {
        self.go(Go::Begin(task))
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self) -> Result<(), String> {
        self.go(Go::On)
    }

    fn go(&mut self, go: Go) -> Result<(), String> {
        drop(self.go.send(go));
        match self.stopped.recv_timeout(GO_MAX) {
            Ok(Stop::Panicked) => Err("a thread of the runtime panicked".into()),
            Ok(stop) => {
                self.paused = stop == Stop::Paused;
                Ok(())
            }
            Err(_) => Err("a thread does not go on: a lock is held where the engine runs or the clock is read".into()),
        }
    }
}

/// Stops this thread until it is told to go on. Does nothing on a thread that is no actor's.
pub(crate) fn pause() {
    ME.with_borrow(|me| {
        let Some(me) = me else { return };
        let _ = me.stopped.send(Stop::Paused);
        drop(me.go.recv());
    });
}

/// Whether this thread is an event loop's.
pub(crate) fn runs_turns() -> bool {
    RUNS_TURNS.get()
}
