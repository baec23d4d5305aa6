//! Which files have other contents than those in force, and has the change come to rest?
//!
//! Contents are compared, not times: links that are switched, as Kubernetes switches mounted secrets, and copies that keep
//! their times are seen alike. A change counts once two looks in a row found the same, so that a certificate whose key is
//! still on its way is not taken for a broken one.

use std::io;
use std::path::{Path, PathBuf};

use ring::digest::{Context, Digest, SHA256};

/// The largest file that is read: certificates, keys and lists of callers are far smaller.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the files hold, in their order.
pub(super) type Contents = Vec<Vec<u8>>;

/// Some files, and what was last made of them.
pub(super) struct Followed {
    paths: Vec<PathBuf>,
    /// What is in force, or was refused and told. Only a digest: keys are not kept twice.
    taken: Option<Mark>,
    /// What the last look found, where that is something else.
    waiting: Option<Mark>,
}

/// What a look found, to tell it from what another finds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    Contents([u8; 32]),
    Unreadable(String),
}

impl Followed {
    /// Reads the files for the first time. Fails, in words, where one cannot be read.
    pub(super) fn open(paths: Vec<PathBuf>) -> Result<(Followed, Contents), String> {
        let contents = read(&paths)?;
        let taken = Some(mark(&contents));
        Ok((Followed { paths, taken, waiting: None }, contents))
    }

    /// The new contents, once for each change that has come to rest; or why they cannot be read.
    pub(super) fn look(&mut self) -> Option<Result<Contents, String>> {
        let found = read(&self.paths);
        self.weigh(found)
    }

    fn weigh(&mut self, found: Result<Contents, String>) -> Option<Result<Contents, String>> {
        let mark = Some(match &found {
            Ok(contents) => mark(contents),
            Err(reason) => Mark::Unreadable(reason.clone()),
        });
        if mark == self.taken {
            self.waiting = None;
            return None;
        }
        if mark != self.waiting {
            self.waiting = mark;
            return None;
        }
        self.taken = self.waiting.take();
        Some(found)
    }
}

fn mark(contents: &Contents) -> Mark {
    let mut context = Context::new(&SHA256);
    for content in contents {
        context.update(&(content.len() as u64).to_be_bytes());
        context.update(content);
    }
    let digest: Digest = context.finish();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Mark::Contents(bytes)
}

fn read(paths: &[PathBuf]) -> Result<Contents, String> {
    paths.iter().map(|path| read_file(path).map_err(|error| format!("{}: {error}", path.display()))).collect()
}

/// A whole file of reasonable size.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    match content.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))),
        false => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed() -> Followed {
        Followed { paths: Vec::new(), taken: Some(mark(&content("old"))), waiting: None }
    }

    fn content(text: &str) -> Contents {
        vec![text.as_bytes().to_vec()]
    }

    #[test]
    fn a_change_counts_once_it_rests() {
        let mut followed = followed();
        assert_eq!(followed.weigh(Ok(content("old"))), None);
        assert_eq!(followed.weigh(Ok(content("half"))), None);
        assert_eq!(followed.weigh(Ok(content("new"))), None);
        assert_eq!(followed.weigh(Ok(content("new"))), Some(Ok(content("new"))));
        assert_eq!(followed.weigh(Ok(content("new"))), None);
    }

    #[test]
    fn a_change_that_is_taken_back_is_none() {
        let mut followed = followed();
        assert_eq!(followed.weigh(Ok(content("new"))), None);
        assert_eq!(followed.weigh(Ok(content("old"))), None);
        assert_eq!(followed.weigh(Ok(content("new"))), None);
    }

    #[test]
    fn an_unreadable_file_is_told_once() {
        let mut followed = followed();
        let gone = || Err("a: not found".to_owned());
        assert_eq!(followed.weigh(gone()), None);
        assert_eq!(followed.weigh(gone()), Some(gone()));
        assert_eq!(followed.weigh(gone()), None);
        assert_eq!(followed.weigh(Ok(content("old"))), None);
        assert_eq!(followed.weigh(Ok(content("old"))), Some(Ok(content("old"))));
    }

    #[test]
    fn where_one_file_ends_matters() {
        assert_ne!(mark(&vec![b"ab".to_vec(), b"c".to_vec()]), mark(&vec![b"a".to_vec(), b"bc".to_vec()]));
    }
}
