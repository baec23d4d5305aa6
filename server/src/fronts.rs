//! Which threads serve the connections?
//!
//! A few, each with an event loop of its own. A connection stays on the thread it was dealt to, the one with the fewest:
//! its requests then meet no lock that another thread holds, and wake no thread but their own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use tiltyard_runtime::pool::Pool;
use tiltyard_runtime::turn;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};

use crate::deadlines;

/// Threads that heavy bodies may occupy beside each event loop.
const BESIDE_MAX: usize = 4;

/// Event loops, and how busy they are. The threads end when this is dropped.
pub struct Fronts {
    fronts: Vec<Front>,
    _running: watch::Sender<()>,
}

struct Front {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

impl Fronts {
    /// Starts `threads` event loops, whose requests for quick models may be run on the spot over `pool`.
    pub fn start(threads: usize, pool: &Arc<Pool>) -> io::Result<Fronts> {
        let (running, ended) = watch::channel(());
        let front = |number: usize| {
            let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BESIDE_MAX).build()?;
            let handle = runtime.handle().clone();
            let (pool, mut ended) = (Arc::clone(pool), ended.clone());
            thread::Builder::new().name(format!("tiltyard-front-{number}")).spawn(move || {
                runtime.block_on(async {
                    turn::install(pool);
                    deadlines::install();
                    // An error says that the sender has gone, which is what is waited for.
                    drop(ended.changed().await);
                });
                // Whatever still runs was given its time.
                runtime.shutdown_background();
            })?;
            Ok(Front { handle, connections: Arc::default() })
        };
        Ok(Fronts { fronts: (0..threads.max(1)).map(front).collect::<io::Result<_>>()?, _running: running })
    }

    /// The event loop that calls this, and no other: for ports that see little traffic.
    pub fn here() -> Fronts {
        let front = Front { handle: Handle::current(), connections: Arc::default() };
        Fronts { fronts: vec![front], _running: watch::channel(()).0 }
    }

    /// Runs a connection on the event loop that has the fewest. It starts on that loop's thread.
    pub fn deal<F: Future<Output = ()> + Send + 'static>(&self, connection: F) {
        let Some(front) = self.fronts.iter().min_by_key(|front| front.connections.load(Relaxed)) else { return };
        let open = Open::new(&front.connections);
        // Boxed, since a future that waits for another has room for it twice, and idle connections are many.
        let connection = Box::pin(connection);
        front.handle.spawn(async move {
            connection.await;
            drop(open);
        });
    }

    /// Has every event loop do something, as soon as each finds the time, and waits until all have.
    pub async fn each(&self, act: fn()) {
        // Each loop holds a sender and sends nothing: there is none any more when all have acted.
        let (acting, mut acted) = mpsc::channel::<std::convert::Infallible>(1);
        for front in &self.fronts {
            let acting = acting.clone();
            front.handle.spawn(async move {
                act();
                drop(acting);
            });
        }
        drop(acting);
        let None = acted.recv().await;
    }
}

/// Counts a connection for as long as it is open.
pub struct Open(Arc<AtomicUsize>);

impl Open {
    /// One more.
    pub fn new(open: &Arc<AtomicUsize>) -> Open {
        open.fetch_add(1, Relaxed);
        Open(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn connections_are_dealt_to_the_least_busy() {
        let fronts = Fronts::start(2, &Pool::start(1, crate::clock::now).unwrap()).unwrap();
        let (told, names) = mpsc::channel();
        let (end, ended) = watch::channel(());
        for _ in 0..4 {
            let (told, mut ended) = (told.clone(), ended.clone());
            fronts.deal(async move {
                told.send(thread::current().name().map(str::to_owned)).unwrap();
                drop(ended.changed().await);
            });
        }
        let mut names: Vec<_> = names.iter().take(4).flatten().collect();
        names.sort();
        assert_eq!(names, ["tiltyard-front-0", "tiltyard-front-0", "tiltyard-front-1", "tiltyard-front-1"]);
        drop(end);
    }

    #[test]
    fn every_loop_is_asked() {
        use std::sync::atomic::AtomicUsize;
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let fronts = Fronts::start(3, &Pool::start(1, crate::clock::now).unwrap()).unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(fronts.each(|| _ = ASKED.fetch_add(1, Relaxed)));
        assert_eq!(ASKED.load(Relaxed), 3);
    }
}
