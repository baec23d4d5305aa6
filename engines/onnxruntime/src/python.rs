//! Where does `python3` keep its packages, asked without waiting long?

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an interpreter may take to answer before it is killed.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// How often a running interpreter is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Prints the folders, one per line. `ENABLE_USER_SITE` is not asked: a library there can be used all the same.
const QUERY: &str = "import site, sysconfig\n\
    folders = [sysconfig.get_path('purelib'), sysconfig.get_path('platlib'), site.getusersitepackages()]\n\
    print('\\n'.join(dict.fromkeys(folders)))";

/// The first `python3` in the folders of `search_path`.
pub(crate) fn on_path(search_path: Option<&OsString>) -> Option<PathBuf> {
    std::env::split_paths(search_path?).map(|folder| folder.join("python3")).find(|file| file.is_file())
}

/// The folders that `python` installs packages in, or why it did not say. Blocks for at most two seconds.
pub(crate) fn package_folders(python: &Path) -> Result<Vec<PathBuf>, String> {
    let mut child = Command::new(python)
        .args(["-c", QUERY])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{} could not be started: {error}", python.display()))?;
    let deadline = Instant::now() + ANSWER_MAX;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
            outcome => {
                // Neither can fail in a way that matters: the process is gone or about to be.
                let _ = child.kill();
                let _ = child.wait();
                return Err(match outcome {
                    Err(error) => format!("{} could not be waited for: {error}", python.display()),
                    Ok(_) => format!("{} did not answer within {} s", python.display(), ANSWER_MAX.as_secs()),
                });
            }
        }
    };
    if !status.success() {
        return Err(format!("{} failed with {status}", python.display()));
    }
    // A few paths fit into the pipe, so the interpreter never waited for this read.
    let mut answer = String::new();
    let read = child.stdout.take().map_or(Ok(0), |mut pipe| pipe.read_to_string(&mut answer));
    read.map_err(|error| format!("{} answered with something unreadable: {error}", python.display()))?;
    Ok(answer.lines().map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Makes an executable script that stands in for an interpreter.
    fn script(folder: &Path, body: &str) -> PathBuf {
        let path = folder.join("python3");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn an_answer_is_read_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let python = script(folder.path(), "printf '/one\\n/two\\n'");
        assert_eq!(package_folders(&python).unwrap(), [PathBuf::from("/one"), PathBuf::from("/two")]);
        assert_eq!(on_path(Some(&folder.path().into())), Some(python));
        assert_eq!(on_path(None), None);
    }

    #[test]
    fn a_hung_interpreter_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let python = script(folder.path(), "exec tail -f /dev/null");
        let started = Instant::now();
        assert!(package_folders(&python).unwrap_err().contains("did not answer within 2 s"));
        assert!(started.elapsed() < ANSWER_MAX * 3);
    }

    #[test]
    fn a_failing_interpreter_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let python = script(folder.path(), "exit 3");
        assert!(package_folders(&python).unwrap_err().contains("exit status: 3"));
    }
}
