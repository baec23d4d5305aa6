//! Who brings finished segments elsewhere, and how far has it come?
//!
//! A thread follows the manifest: segments in the order of their lines, each until it has arrived. How far it is stands in a
//! file, so that a restart goes on from there; what was on its way then is sent again. Whoever receives may be down for as long
//! as segments are kept: requests know nothing of it, and the disk is bounded by what may be kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tiltyard_capture::{Capture, Listed, listing};

/// How often it is looked whether there are new segments.
const LOOK: Duration = Duration::from_millis(500);

/// Waits between tries where the receiver fails: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Whoever gets segments.
pub(super) trait Receiver: Send {
    /// Its name, which is that of its file and its metrics.
    fn name(&self) -> &'static str;

    /// Takes a segment. Fails in words where that is to be tried again; gives up where `is_ending`.
    fn take(
        &mut self,
        capture: &Capture,
        folder: &Path,
        listed: &Listed,
        is_ending: &AtomicBool,
    ) -> Result<Taken, String>;
}

/// What became of a segment's requests, or of the segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) sent: u64,
    pub(super) dropped: u64,
}

/// How it goes.
#[derive(Debug, Default)]
pub struct Figures {
    /// What has arrived.
    pub sent: AtomicU64,
    /// What will not.
    pub dropped: AtomicU64,
    /// Segments that wait.
    pub waiting: AtomicU64,
    /// Why the last try failed, if it did.
    failing: Mutex<Option<String>>,
}

impl Figures {
    /// Whether the receiver fails.
    pub fn is_failing(&self) -> bool {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// How long the end of the process waits for what is on its way.
const END_MAX: Duration = Duration::from_secs(2);

/// The thread; it is told to end when this is dropped.
pub(super) struct Follower {
    pub(super) name: &'static str,
    pub(super) figures: Arc<Figures>,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts to follow. Fails where the system starts no thread.
    pub(super) fn start(
        capture: &Arc<Capture>,
        folder: &Path,
        receiver: Box<dyn Receiver>,
    ) -> std::io::Result<Follower> {
        let (figures, is_ending) = (Arc::<Figures>::default(), Arc::<AtomicBool>::default());
        let name = receiver.name();
        let following = Following {
            capture: Arc::clone(capture),
            folder: folder.to_owned(),
            mark: folder.join("sent").join(name),
            receiver,
            figures: Arc::clone(&figures),
            is_ending: Arc::clone(&is_ending),
            lines: 0,
        };
        let thread = thread::Builder::new().name(format!("capture-{name}")).spawn(move || {
            tiltyard_runtime::priority::give_way();
            following.run();
        })?;
        Ok(Follower { name, figures, is_ending, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.is_ending.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        let begun = Instant::now();
        // Whoever does not answer must not hold up the end: what did not arrive is sent again after the next start.
        while !thread.is_finished() && begun.elapsed() < END_MAX {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Following {
    capture: Arc<Capture>,
    folder: PathBuf,
    /// The file with the number of the last line that has arrived.
    mark: PathBuf,
    receiver: Box<dyn Receiver>,
    figures: Arc<Figures>,
    is_ending: Arc<AtomicBool>,
    /// How many lines the manifest had when all that is in them had arrived.
    lines: u64,
}

impl Following {
    fn run(mut self) {
        let mut done: u64 =
            fs::read_to_string(&self.mark).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let mut retry = RETRY.0;
        while !self.is_ending.load(Relaxed) {
            let wait = match self.catch_up(&mut done) {
                Ok(()) => {
                    retry = RETRY.0;
                    LOOK
                }
                Err(_) if self.is_ending.load(Relaxed) => return,
                Err(why) => {
                    tracing::warn!(
                        to = self.receiver.name(),
                        why,
                        "captured segments do not arrive: it is tried again"
                    );
                    *self.figures.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    retry = (retry * 2).min(RETRY.1);
                    retry
                }
            };
            thread::park_timeout(wait);
        }
    }

    fn catch_up(&mut self, done: &mut u64) -> Result<(), String> {
        let lines = self.capture.lines();
        if lines == self.lines {
            return Ok(());
        }
        let listed = listing(&self.folder).map_err(|error| error.to_string())?;
        let waiting: Vec<Listed> = listed.into_iter().filter(|listed| listed.line > *done).collect();
        for (at, listed) in waiting.iter().enumerate() {
            self.figures.waiting.store((waiting.len() - at) as u64, Relaxed);
            if self.is_ending.load(Relaxed) {
                return Ok(());
            }
            let taken = match listed.is_removed {
                // Its time or its room was over before it could be sent.
                true => Taken { sent: 0, dropped: 1 },
                false => self.receiver.take(&self.capture, &self.folder, listed, &self.is_ending)?,
            };
            self.figures.sent.fetch_add(taken.sent, Relaxed);
            self.figures.dropped.fetch_add(taken.dropped, Relaxed);
            *done = listed.line;
            self.note(*done)?;
            *self.figures.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.figures.waiting.store(0, Relaxed);
        self.lines = lines;
        Ok(())
    }

    /// Where that is lost, segments are sent twice, and none is forgotten.
    fn note(&self, done: u64) -> Result<(), String> {
        let making = self.mark.with_extension("making");
        let written = fs::create_dir_all(self.folder.join("sent"))
            .and_then(|()| fs::write(&making, done.to_string()))
            .and_then(|()| fs::rename(&making, &self.mark));
        written.map_err(|error| format!("{}: {error}", self.mark.display()))
    }
}
