//! What does the service manager that started the process hear of it?
//!
//! systemd's notifications, one datagram each. Without `NOTIFY_SOCKET` nobody listens, and nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The way to the service manager, if there is one.
pub struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that the environment names.
    pub fn from_env() -> Manager {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match reach(&name) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!(socket = %name.display(), %error, "NOTIFY_SOCKET cannot be used: nobody is notified");
                None
            }
        });
        let variable = |name| std::env::var(name).ok();
        let watchdog = interval(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Manager { watchdog: to.is_some().then_some(watchdog).flatten(), to }
    }

    /// How often the manager wants to hear that the process is alive; half of the time after which it would give it up.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The process answers requests.
    pub fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The process reads its settings anew; [`Manager::ready`] ends that.
    pub fn reloading(&self) {
        // The clock fails only where the system has none.
        let now = NotifyState::monotonic_usec_now().ok();
        let states = [Some(NotifyState::Reloading), now].into_iter().flatten();
        self.send(&states.collect::<Vec<_>>());
    }

    /// The process ends.
    pub fn stopping(&self, status: &str) {
        self.send(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Words for whoever looks at the service.
    pub fn status(&self, status: &str) {
        self.send(&[NotifyState::Status(status)]);
    }

    /// The process is alive.
    pub fn alive(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some((socket, address)) = &self.to else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

/// A socket, and the address behind its name: a path, or after `@` a name that is in no folder.
fn reach(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not listen must not hold the server up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// Half of the time in `usec`, where it is meant for this process.
fn interval(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid.trim().parse() == Ok(own));
    let usec: u64 = usec?.trim().parse().ok()?;
    (ours && usec > 0).then(|| Duration::from_micros(usec) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(name: &OsStr, listener: &UnixDatagram) -> String {
        let manager = Manager { to: Some(reach(name).unwrap()), watchdog: None };
        manager.ready("3 models");
        let mut buffer = [0; 256];
        let count = listener.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn sockets_in_a_folder_and_in_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        assert_eq!(heard(path.as_os_str(), &listener), "READY=1\nSTATUS=3 models\n");
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt;
            let name = format!("tiltyard-test-{}", std::process::id());
            let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
            assert_eq!(heard(OsStr::new(&format!("@{name}")), &listener), "READY=1\nSTATUS=3 models\n");
        }
    }

    #[test]
    fn the_watchdog_is_told_twice_as_often_as_it_asks() {
        let check = |usec: &str, pid: Option<&str>, expected: Option<u64>| {
            let interval = interval(Some(usec.to_owned()), pid.map(str::to_owned), 7);
            assert_eq!(interval, expected.map(Duration::from_secs), "{usec} {pid:?}");
        };
        check("30000000", None, Some(15));
        check("30000000", Some("7"), Some(15));
        check("30000000", Some("8"), None);
        check("0", None, None);
        check("soon", None, None);
        assert_eq!(interval(None, None, 7), None);
    }
}
