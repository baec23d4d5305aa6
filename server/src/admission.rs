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
    requests_max: usize,
    bytes_max: usize,
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
        Arc::new(Admission { requests_max, bytes_max, requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// Takes room for a request of `bytes`, or refuses at once.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Result<Permit> {
        if self.requests.fetch_add(1, Relaxed) >= self.requests_max {
            self.requests.fetch_sub(1, Relaxed);
            return Err(refusal(format!("{} requests are in flight already", self.requests_max)));
        }
        if self.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes) > self.bytes_max {
            self.bytes.fetch_sub(bytes, Relaxed);
            self.requests.fetch_sub(1, Relaxed);
            return Err(refusal(format!("requests in flight hold {} bytes already", self.bytes_max)));
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
}
