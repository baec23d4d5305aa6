//! Which sockets did the process's parent open for it?
//!
//! A parent that keeps listening sockets open while servers come and go loses no connection: those that nobody accepted
//! yet wait in the socket. systemd does it, and so can any parent, in systemd's way: the sockets are the descriptors from
//! 3 on, `LISTEN_FDS` says how many, `LISTEN_FDNAMES` what each is for, and `LISTEN_PID`, where it is set, for whom.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Instead of `http_port`.
    Http,
    /// Instead of `grpc_port`.
    Grpc,
    /// Instead of `admin_port`, for administration and metrics.
    Admin,
}

impl Purpose {
    /// In the order in which sockets without names are taken.
    const ALL: [Purpose; 3] = [Purpose::Http, Purpose::Grpc, Purpose::Admin];

    /// The name of the socket.
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Http => "http",
            Purpose::Grpc => "grpc",
            Purpose::Admin => "admin",
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// On an address.
    Tcp(TcpListener),
    /// On a path, which is its parent's.
    Unix(UnixListener),
}

/// Takes the sockets that are meant for this process. Call it before any thread is started: it takes the variables out of
/// the environment. Fails where a socket is none, or where it is not clear what it is for.
pub fn take() -> Result<Vec<(Purpose, Socket)>, String> {
    let names = std::env::var("LISTEN_FDNAMES").ok();
    let mut handed = ListenFd::from_env();
    let purposes = purposes(handed.len(), names.as_deref())?;
    let mut sockets = Vec::new();
    for (position, purpose) in purposes.into_iter().enumerate() {
        let wrong = |error| {
            let name = purpose.name();
            format!("socket {name:?}, which was handed over, is no listening TCP or Unix socket: {error}")
        };
        // What is no TCP socket stays where it is.
        let socket = match handed.take_tcp_listener(position) {
            Ok(tcp) => tcp.map(Socket::Tcp),
            Err(_) => handed.take_unix_listener(position).map_err(wrong)?.map(Socket::Unix),
        };
        sockets.extend(socket.map(|socket| (purpose, socket)));
    }
    Ok(sockets)
}

/// What each of `count` sockets is for, by its name, or where they have none, by its place.
fn purposes(count: usize, names: Option<&str>) -> Result<Vec<Purpose>, String> {
    let known = || Purpose::ALL.map(Purpose::name).join(", ");
    let names: Vec<&str> = names.unwrap_or_default().split(':').filter(|name| !name.is_empty()).collect();
    // systemd says `unknown`, or the name of its unit, where a socket has no name.
    if names.iter().all(|name| *name == "unknown" || name.ends_with(".socket")) {
        return match Purpose::ALL.get(..count) {
            Some(purposes) => Ok(purposes.to_vec()),
            None => {
                Err(format!("{count} sockets were handed over without names (LISTEN_FDNAMES): name each {}", known()))
            }
        };
    }
    if names.len() != count {
        return Err(format!(
            "{count} sockets were handed over (LISTEN_FDS) with {} names (LISTEN_FDNAMES)",
            names.len()
        ));
    }
    let purpose = |name: &&str| {
        let purpose = Purpose::ALL.into_iter().find(|purpose| purpose.name() == *name);
        purpose.ok_or_else(|| format!("a socket was handed over under the name {name:?}: expected one of {}", known()))
    };
    names.iter().map(purpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_names_or_places() {
        use Purpose::{Admin, Grpc, Http};
        let check = |count, names, expected: &[Purpose]| {
            assert_eq!(purposes(count, names).as_deref(), Ok(expected), "{count} {names:?}");
        };
        check(0, None, &[]);
        check(2, None, &[Http, Grpc]);
        check(2, Some("unknown:unknown"), &[Http, Grpc]);
        check(2, Some("tiltyard.socket:tiltyard.socket"), &[Http, Grpc]);
        check(3, Some("admin:grpc:http"), &[Admin, Grpc, Http]);
        check(3, Some("http:http:admin"), &[Http, Http, Admin]);
    }

    #[test]
    fn unclear_sockets_are_refused() {
        let check = |count, names, expected: &str| {
            let error = purposes(count, names).unwrap_err();
            assert!(error.contains(expected), "{count} {names:?}: {error}");
        };
        check(2, Some("http:rest"), "\"rest\": expected one of http, grpc, admin");
        check(2, Some("http:tiltyard.socket"), "\"tiltyard.socket\"");
        check(2, Some("http"), "2 sockets were handed over (LISTEN_FDS) with 1 names");
        check(5, None, "without names");
    }
}
