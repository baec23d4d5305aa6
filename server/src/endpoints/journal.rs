//! How do applied plans survive a restart? In one small file, written whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Endpoints;

const FILE: &str = "endpoints.json";

/// What the file is written like; another number is another way.
const FORMAT: u64 = 1;

/// Keeps plans in a folder. After a crash at any moment the file holds either what was kept last or what was kept before.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal in this folder, which need not be there yet, and what it holds. Fails, in words, where the file is there and
    /// cannot be read: to go on without would forget who answers whom.
    pub fn open(folder: &Path) -> Result<(Journal, Endpoints), String> {
        let path = folder.join(FILE);
        let failed = |why: String| format!("the plans in {} cannot be read: {why}", path.display());
        let endpoints = match fs::read(&path) {
            Ok(text) => {
                let mut form: Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
                if form["format"] != FORMAT {
                    return Err(failed(format!("expected format {FORMAT}, got {}", form["format"])));
                }
                Endpoints::read(form["endpoints"].take()).map_err(failed)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Endpoints::default(),
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok((Journal { path }, endpoints))
    }

    /// Keeps these plans instead of what was kept before. They are on the disk when it returns.
    pub fn keep(&self, endpoints: &Endpoints) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let temporary = self.path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        let form = json!({ "format": FORMAT, "endpoints": endpoints.form() });
        file.write_all(format!("{form:#}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // The name, too.
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::draft;
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let (journal, mut endpoints) = Journal::open(&data).unwrap();
        assert_eq!(endpoints, Endpoints::default());
        endpoints.add(endpoints.next(&draft(10)).unwrap().unwrap());
        endpoints.add(endpoints.next(&draft(20)).unwrap().unwrap());
        endpoints.note_file(&draft(20));
        endpoints.point("risk", 1);
        journal.keep(&endpoints).unwrap();
        assert_eq!(Journal::open(&data).unwrap().1, endpoints);
        // What a crash leaves behind is not read.
        fs::write(data.join("endpoints.json.new"), "{").unwrap();
        assert_eq!(Journal::open(&data).unwrap().1, endpoints);
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |text: &str| {
            fs::write(folder.path().join(FILE), text).unwrap();
            Journal::open(folder.path()).unwrap_err()
        };
        assert!(refused("{").contains("endpoints.json cannot be read"));
        assert!(refused(r#"{"format": 9}"#).contains("expected format 1, got 9"));
        let lost = r#"{"format": 1, "endpoints": {"risk": {"current": 3, "revisions": [], "file": null}}}"#;
        assert!(refused(lost).contains("not among its revisions"));
    }
}
