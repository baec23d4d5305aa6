//! How do applied plans survive a restart? In one small file, written whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Endpoints;
use crate::state::StateFolder;

const FILE: &str = "endpoints.json";

/// What the file is written like; another number is another way.
const FORMAT: u64 = 1;

/// Keeps plans in a folder. After a crash at any moment the file holds either what was kept last or what was kept before.
#[derive(Debug)]
pub struct Journal {
    /// The folder.
    pub folder: Arc<StateFolder>,
    path: PathBuf,
    /// What the file held when it was read, until it is known that nobody else has written it since.
    found: Option<Vec<u8>>,
    is_ours: bool,
}

impl Journal {
    /// The journal in this folder, which need not be there yet, and what it holds. Fails, in words, where the file is there and
    /// cannot be read: to go on without would forget who answers whom.
    pub fn open(folder: Arc<StateFolder>) -> Result<(Journal, Endpoints), String> {
        let path = folder.path.join(FILE);
        let is_ours = folder.hold().is_ok();
        let failed = |why: String| format!("the plans in {} cannot be read: {why}", path.display());
        let (endpoints, found) = match fs::read(&path) {
            Ok(text) => {
                let mut form: Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
                if form["format"] != FORMAT {
                    return Err(failed(format!("expected format {FORMAT}, got {}", form["format"])));
                }
                (Endpoints::read(form["endpoints"].take()).map_err(failed)?, Some(text))
            }
            Err(error) if is_nothing(&error) => (Endpoints::default(), None),
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok((Journal { folder, path, found, is_ours }, endpoints))
    }

    /// Keeps these plans instead of what was kept before. They are on the disk when it returns. Fails where another process
    /// keeps plans in the folder, or has kept others there before it ended.
    pub fn keep(&mut self, endpoints: &Endpoints) -> io::Result<()> {
        if !self.is_ours {
            self.folder.hold()?;
            if fs::read(&self.path).ok() != self.found {
                let message = "another server kept other plans there in the meantime: a restart takes them in";
                return Err(io::Error::other(message));
            }
            self.is_ours = true;
        }
        self.found = None;
        let temporary = self.path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        let form = json!({ "format": FORMAT, "endpoints": endpoints.form() });
        file.write_all(format!("{form:#}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // The name, too.
        File::open(&self.folder.path)?.sync_all()
    }
}

/// Whether nothing is there. A data folder that can hold no folders holds none.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::file::Said;
    use super::super::tests::draft;
    use super::*;

    fn open(data: &Path) -> Result<(Journal, Endpoints), String> {
        Journal::open(Arc::new(StateFolder::open(data, Path::new("models")).unwrap()))
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let data = tempfile::tempdir().unwrap();
        let (mut journal, mut endpoints) = open(data.path()).unwrap();
        assert_eq!(endpoints, Endpoints::default());
        endpoints.add(endpoints.next(&draft(10)).unwrap().unwrap());
        endpoints.add(endpoints.next(&draft(20)).unwrap().unwrap());
        endpoints.see_file(&Said::Plan(Box::new(draft(20)))).unwrap();
        endpoints.point("risk", 1);
        journal.keep(&endpoints).unwrap();
        assert_eq!(open(data.path()).unwrap().1, endpoints);
        // What a crash leaves behind is not read.
        fs::write(journal.path.with_extension("json.new"), "{").unwrap();
        assert_eq!(open(data.path()).unwrap().1, endpoints);
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_not_passed_over() {
        let data = tempfile::tempdir().unwrap();
        let path = open(data.path()).unwrap().0.path;
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            open(data.path()).unwrap_err()
        };
        assert!(refused("{").contains("endpoints.json cannot be read"));
        assert!(refused(r#"{"format": 9}"#).contains("expected format 1, got 9"));
        let lost = r#"{"format": 1, "endpoints": {"risk": {"current": 3, "revisions": [], "file": null}}}"#;
        assert!(refused(lost).contains("not among its revisions"));
    }

    #[test]
    fn one_server_at_a_time_keeps_plans() {
        let data = tempfile::tempdir().unwrap();
        let (mut first, mut endpoints) = open(data.path()).unwrap();
        endpoints.add(endpoints.next(&draft(10)).unwrap().unwrap());
        first.keep(&endpoints).unwrap();
        let ((mut second, read), (mut third, _)) = (open(data.path()).unwrap(), open(data.path()).unwrap());
        assert_eq!(read, endpoints, "what is kept is read all the same");
        let refused = second.keep(&read).unwrap_err().to_string();
        assert!(refused.contains("serves the same repository and keeps its state"), "{refused}");
        // Who is to follow it keeps plans once it has ended.
        drop(first);
        endpoints.add(endpoints.next(&draft(20)).unwrap().unwrap());
        second.keep(&endpoints).unwrap();
        drop(second);
        let refused = third.keep(&read).unwrap_err().to_string();
        assert!(refused.contains("kept other plans there in the meantime"), "{refused}");
        drop(third);
        assert_eq!(open(data.path()).unwrap().1, endpoints, "nothing was overwritten");
    }
}
