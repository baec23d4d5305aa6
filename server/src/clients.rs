//! Does one client ask too often?
//!
//! A token bucket for each client, in two tables of fixed size: a client has a place in each, drawn by a hash that nobody
//! outside can foretell, and the emptier of the two counts. So memory is bounded, nothing expires by a timer, no lock is
//! taken, and a quiet client is held back only where both its places are also those of a client that asks too often.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use tiltyard_runtime::stats::{Refusal, Stats};
use tiltyard_types::{Error, ErrorKind, Moment, Result};

/// Places in each of the two tables: half a megabyte in all.
const PLACES: usize = 1 << 15;

/// Who is one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKey {
    /// Whoever comes from one address, or one network of 64 bits over IPv6. All who come over a Unix socket are one.
    Address,
    /// Whoever sends the same value in this header; those who send none are told apart by their address.
    Header(HeaderName),
}

/// Who asks: the places of a client.
#[derive(Clone, Copy, Debug)]
pub struct Asker([usize; 2]);

/// How often each client may ask.
pub struct Clients {
    key: ClientKey,
    /// Nanoseconds from one request to the next at the rate allowed.
    apart_ns: u64,
    /// How far ahead of that a burst may be.
    burst_ns: u64,
    hashers: [RandomState; 2],
    /// For each place the moment, in nanoseconds, until which what was asked there is paid for at the rate allowed.
    paid_until: [Box<[AtomicU64]>; 2],
}

impl Clients {
    /// Allows each client `rate` requests per second, and `burst` at once.
    pub fn new(rate: usize, burst: usize, key: ClientKey) -> Clients {
        let apart_ns = (1_000_000_000 / rate.max(1) as u64).max(1);
        let table = || (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Clients {
            key,
            apart_ns,
            burst_ns: apart_ns.saturating_mul(burst.max(1) as u64),
            hashers: [RandomState::new(), RandomState::new()],
            paid_until: [table(), table()],
        }
    }

    /// Who sent these headers from `peer`.
    pub fn asker(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Asker {
        let value = match &self.key {
            ClientKey::Address => None,
            ClientKey::Header(name) => headers.get(name).map(|value| value.as_bytes()),
        };
        match value {
            Some(value) => self.asker_of((1u8, value)),
            None => self.asker_of((0u8, network(peer))),
        }
    }

    /// Counts a request, or refuses it and counts that under `of`.
    pub fn admit(&self, asker: Asker, now: Moment, of: &Stats) -> Result<()> {
        let Err(wait) = self.take(asker, now) else { return Ok(()) };
        of.refused(Refusal::ClientRate);
        let message = format!(
            "this client asks more than {} times a second (client_rate): the next request is welcome in {wait:.0?}",
            1_000_000_000 / self.apart_ns
        );
        Err(Error::new(ErrorKind::Overloaded, message).retry_after(wait))
    }

    fn asker_of(&self, client: impl Hash) -> Asker {
        Asker(std::array::from_fn(|table| self.hashers[table].hash_one(&client) as usize % PLACES))
    }

    /// Takes one request out of the bucket of a client. Fails with the time until there is one again.
    fn take(&self, Asker(places): Asker, now: Moment) -> Result<(), Duration> {
        let now = now.as_nanos();
        let places: [&AtomicU64; 2] = std::array::from_fn(|table| &self.paid_until[table][places[table]]);
        loop {
            let seen = places.map(|place| place.load(Relaxed));
            // The one with less in it is nearer the truth: others can only have added to it.
            let (nearer, other) = if seen[0] <= seen[1] { (0, 1) } else { (1, 0) };
            let paid_until = seen[nearer].max(now).saturating_add(self.apart_ns);
            let early = paid_until.saturating_sub(now.saturating_add(self.burst_ns));
            if early > 0 {
                return Err(Duration::from_nanos(early));
            }
            if places[nearer].compare_exchange_weak(seen[nearer], paid_until, Relaxed, Relaxed).is_ok() {
                places[other].fetch_max(paid_until, Relaxed);
                return Ok(());
            }
        }
    }
}

/// What stands for an address: over IPv6 its network, since whoever has one address there has all of them.
fn network(peer: Option<IpAddr>) -> u128 {
    match peer.map(|peer| peer.to_canonical()) {
        None => 0,
        Some(IpAddr::V4(address)) => 1 << 32 | u128::from(u32::from(address)),
        Some(IpAddr::V6(address)) => u128::from(address) >> 64 << 64 | 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    fn take(clients: &Clients, client: u32, now: Moment) -> Result<(), Duration> {
        clients.take(clients.asker_of(client), now)
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate() {
        let clients = Clients::new(10, 3, ClientKey::Address);
        (0..3).for_each(|_| take(&clients, 1, at(0)).unwrap());
        assert_eq!(take(&clients, 1, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(take(&clients, 1, at(60)), Err(Duration::from_millis(40)));
        take(&clients, 1, at(100)).unwrap();
        assert_eq!(take(&clients, 1, at(100)), Err(Duration::from_millis(100)));
        take(&clients, 2, at(100)).unwrap();
        // Who was quiet has the burst again, and no more.
        (0..3).for_each(|_| take(&clients, 1, at(60_000)).unwrap());
        assert!(take(&clients, 1, at(60_000)).is_err());
    }

    #[test]
    fn clients_are_told_apart_by_header_or_address() {
        let stats = Stats::default();
        let ask = |clients: &Clients, value: Option<&'static str>, peer: &str| {
            let name = HeaderName::from_static("x-api-key");
            let headers = value.map(|value| (name, HeaderValue::from_static(value))).into_iter().collect();
            clients.admit(clients.asker(&headers, peer.parse().ok()), at(0), &stats).is_ok()
        };
        let by_key = Clients::new(1, 1, ClientKey::Header(HeaderName::from_static("x-api-key")));
        assert!(ask(&by_key, Some("a"), "10.0.0.1") && ask(&by_key, Some("b"), "10.0.0.1"));
        assert!(!ask(&by_key, Some("a"), "10.0.0.2"));
        assert!(ask(&by_key, None, "10.0.0.1") && ask(&by_key, None, "10.0.0.2") && !ask(&by_key, None, "10.0.0.1"));
        let by_address = Clients::new(1, 1, ClientKey::Address);
        assert!(ask(&by_address, Some("a"), "2001:db8::1") && !ask(&by_address, Some("b"), "2001:db8::9"));
        assert!(ask(&by_address, None, "2001:db8:0:1::1") && ask(&by_address, None, "::ffff:10.0.0.1"));
        assert!(!ask(&by_address, None, "10.0.0.1") && ask(&by_address, None, "no address"));
        assert_eq!(stats.snapshot().refused[Refusal::ClientRate as usize], 4);
    }

    #[test]
    fn a_thousand_clients_that_ask_too_often_hold_back_hardly_any_other() {
        let clients = Clients::new(1, 1, ClientKey::Address);
        (0..1_000).for_each(|client| assert!(take(&clients, client, at(0)).is_ok() || client > 9));
        // Both places of one in a thousand are taken, on average.
        let held_back = (10_000..10_500).filter(|&client| take(&clients, client, at(1)).is_err()).count();
        assert!(held_back < 20, "{held_back}");
    }

    #[test]
    fn threads_that_count_for_one_client_let_no_more_in() {
        let clients = Clients::new(1, 100, ClientKey::Address);
        let count = || (0..100).filter(|_| take(&clients, 7, at(0)).is_ok()).count();
        let let_in: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(let_in, 100);
    }
}
