//! Is there room for one more request?
//!
//! Two bounds, requests and bytes in flight. A permit is taken after decoding and lives as long as its job: a client
//! that goes away does not free the room of what still waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tiltyard_types::{Error, ErrorKind, Result};

/// Counts what is in flight.
pub struct Admission {
    requests_max: AtomicUsize,
    bytes_max: AtomicUsize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// Room for one request and its body.
pub struct Permit {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Admission {
    /// Bounds for requests and for bytes of request bodies.
    pub fn new(requests_max: usize, bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission {
            requests_max: AtomicUsize::new(requests_max),
            bytes_max: AtomicUsize::new(bytes_max),
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        })
    }

    /// Other bounds from now on. What is in flight stays, even where it is more.
    pub fn set_bounds(&self, requests_max: usize, bytes_max: usize) {
        self.requests_max.store(requests_max, Relaxed);
        self.bytes_max.store(bytes_max, Relaxed);
    }

    /// Takes room for a request of `bytes`, or refuses at once.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Result<Permit> {
        let (requests_max, bytes_max) = (self.requests_max.load(Relaxed), self.bytes_max.load(Relaxed));
        if self.requests.fetch_add(1, Relaxed) >= requests_max {
            self.requests.fetch_sub(1, Relaxed);
            return Err(refusal(format!("{requests_max} requests are in flight already")));
        }
        if self.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes) > bytes_max {
            self.bytes.fetch_sub(bytes, Relaxed);
            self.requests.fetch_sub(1, Relaxed);
            return Err(refusal(format!("requests in flight hold {bytes_max} bytes already")));
        }
        Ok(Permit { admission: Arc::clone(self), bytes })
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.bytes.fetch_sub(self.bytes, Relaxed);
        self.admission.requests.fetch_sub(1, Relaxed);
    }
}

fn refusal(message: String) -> Error {
    Error::new(ErrorKind::Overloaded, message).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let admission = Admission::new(2, 100);
        let first = admission.admit(60).unwrap();
        assert_eq!(admission.admit(60).err().unwrap().kind(), ErrorKind::Overloaded);
        let second = admission.admit(40).unwrap();
        assert_eq!(admission.admit(0).err().unwrap().kind(), ErrorKind::Overloaded);
        drop((first, second));
        assert_eq!(admission.requests(), 0);
        assert!(admission.admit(100).is_ok());
    }

    #[test]
    fn bounds_change_for_those_who_come_next() {
        let admission = Admission::new(2, 100);
        let held = [admission.admit(10).unwrap(), admission.admit(10).unwrap()];
        admission.set_bounds(1, 100);
        drop(held);
        let held = admission.admit(10).unwrap();
        assert_eq!(admission.admit(0).err().unwrap().kind(), ErrorKind::Overloaded);
        admission.set_bounds(2, 15);
        assert_eq!(admission.admit(6).err().unwrap().kind(), ErrorKind::Overloaded);
        drop((held, admission.admit(5).unwrap()));
        assert_eq!(admission.requests(), 0);
    }
}
