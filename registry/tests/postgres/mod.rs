//! How does a test get a Postgres of its own? From the system's package, on a Unix socket in a folder that goes with it.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tiltyard_registry::Address;

/// A server that ends with this.
pub(crate) struct Postgres {
    folder: TempDir,
    child: Child,
    port: u16,
}

/// The newest Postgres of the system's packages, or the one in the path.
fn programs() -> Option<PathBuf> {
    let packaged =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = packaged.chain(std::env::split_paths(&path)).filter(|folder| folder.join("initdb").exists());
    found.max_by_key(|folder| {
        folder.parent().and_then(Path::file_name).and_then(|name| name.to_str()?.parse::<u32>().ok())
    })
}

/// As somebody who is not root, which Postgres refuses to be.
fn command(program: &Path, owner: Option<(u32, u32)>) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Postgres {
    /// Starts one; none where there is no Postgres and the environment says that this is no failure.
    pub(crate) fn start() -> Option<Postgres> {
        Postgres::start_with(None, |_, _| vec![])
    }

    /// The same, on a port too if one is named, with the settings that `prepare` makes in its folder for this owner.
    pub(crate) fn start_with(
        port: Option<u16>,
        prepare: impl FnOnce(&Path, Option<(u32, u32)>) -> Vec<String>,
    ) -> Option<Postgres> {
        let Some(programs) = programs() else {
            let is_meant = std::env::var_os("TILTYARD_WITHOUT_POSTGRES").is_some();
            assert!(is_meant, "no Postgres: apt-get install postgresql, or set TILTYARD_WITHOUT_POSTGRES");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let is_root = rustix::process::getuid().is_root();
        // Any user will do: nobody's number on most systems.
        let owner = is_root.then_some((65_534, 65_534));
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).expect("it is ours");
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let data = folder.path().join("data");
        let mut made = command(&programs.join("initdb"), owner);
        made.args(["-A", "trust", "-U", "tiltyard", "-E", "UTF8", "--locale", "C", "--no-sync", "-D"]).arg(&data);
        made.current_dir(folder.path());
        assert!(made.status().expect("initdb runs").success(), "initdb");
        let mut server = command(&programs.join("postgres"), owner);
        server.arg("-D").arg(&data).arg("-k").arg(folder.path());
        server.args(["-c", "fsync=off", "-c", "unix_socket_permissions=0777"]);
        let listen = if port.is_some() { "listen_addresses=127.0.0.1" } else { "listen_addresses=" };
        server.args(["-c", listen]).args(["-p", &port.unwrap_or(5432).to_string()]);
        for setting in prepare(folder.path(), owner) {
            server.args(["-c", &setting]);
        }
        let child = server.current_dir(folder.path()).spawn().expect("postgres runs");
        let made = Postgres { folder, child, port: port.unwrap_or(5432) };
        made.wait();
        Some(made)
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while Address::parse(&self.url(), None).expect("a URL").connect().is_err() {
            assert!(Instant::now() < until, "it does not come up");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("postgres:///postgres?user=tiltyard&port={}&host={}", self.port, self.folder.path().display())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: at once.
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::QUIT).ok();
        drop(self.child.wait());
    }
}
