//! Which segments are meant, and which of their rows?
//!
//! A capture's folder has a manifest, and a segment that is not what the manifest says is refused before it is read. Segments that
//! lie elsewhere, such as copies, are taken as they are.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches};
use tiltyard_capture::{Keys, Listed, Opened, Record, Row, Segment, listing};

use crate::capture::{folder, master_key};
use crate::cli::backtest::dates::parse_time;
use crate::cli::exit::Failure;
use crate::config::Config;

/// Folders within folders, at most: endpoint and date, and what people put around them.
const DEPTH_MAX: usize = 8;

/// A segment's file.
pub(in crate::cli) struct File {
    pub(in crate::cli) path: PathBuf,
    /// What the manifest says of it, where there is one.
    pub(in crate::cli) listed: Option<Listed>,
}

/// Segments, and which of their rows are asked for.
pub(in crate::cli) struct Source {
    /// What was named.
    pub(in crate::cli) from: PathBuf,
    /// Whether that is a capture's folder, with its manifest.
    pub(in crate::cli) is_folder: bool,
    pub(in crate::cli) files: Vec<File>,
    keys: Option<Keys>,
    endpoint: Option<String>,
    arm: Option<String>,
    since_us: u64,
    until_us: u64,
}

/// Rows of one request.
pub(in crate::cli) struct Request {
    /// As they stand in the segment.
    pub(in crate::cli) rows: Vec<Row>,
    /// As they were; empty where their subject was erased.
    pub(in crate::cli) records: Vec<Record<'static>>,
}

/// The flag that says where segments are.
pub(in crate::cli) fn from_flag() -> Arg {
    Arg::new("from")
        .long("from")
        .value_name("PATH")
        .help("A capture's folder, a folder of segments, or one segment [default: the folder that --capture-dir or --data-dir says]")
}

/// The flags that say which rows are meant.
pub(in crate::cli) fn filter_flags() -> Vec<Arg> {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help_heading("Which rows").help(help)
    };
    vec![
        flag("endpoint", "NAME", "Only requests of this endpoint"),
        flag("arm", "NAME", "Only those that this arm answered, such as champion"),
        flag("since", "TIME", "Only those accepted at this time or later, such as 2026-03-01 or 2026-03-01T12:30:00Z"),
        flag("until", "TIME", "Only those accepted before this time"),
    ]
}

impl Source {
    /// Finds the segments that the command line names. Fails where there are none, and where the manifest is not what was written.
    pub(in crate::cli) fn open(matches: &ArgMatches, config: &Config) -> Result<Source, Failure> {
        let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
        let time = |name: &str, otherwise: u64| match text(name) {
            None => Ok(otherwise),
            Some(text) => match parse_time(&text).and_then(|ms| u64::try_from(ms).ok()) {
                Some(ms) => Ok(ms.saturating_mul(1_000)),
                None => Err(Failure::usage(format!("--{name} {text:?}: expected a time such as 2026-03-01T12:30:00Z"))),
            },
        };
        let from = text("from").map_or_else(|| folder(config), PathBuf::from);
        let is_folder = from.join("segments.jsonl").exists();
        let failed = |error: tiltyard_capture::Error| Failure::failed(error.to_string());
        let files = match is_folder {
            true => {
                let segments = from.join("segments");
                let file = |listed: Listed| File { path: segments.join(&listed.facts.file), listed: Some(listed) };
                let listed = listing(&from).map_err(failed)?;
                listed.into_iter().filter(|listed| !listed.is_removed).map(file).collect()
            }
            false => {
                let mut paths = Vec::new();
                walk(&from, 0, &mut paths).map_err(|error| Failure::failed(format!("{}: {error}", from.display())))?;
                paths.sort();
                paths.into_iter().map(|path| File { path, listed: None }).collect::<Vec<_>>()
            }
        };
        if files.is_empty() {
            return Err(Failure::failed(format!("there are no segments in {}", from.display())));
        }
        let master = config.capture_key_file.as_deref().map(master_key).transpose().map_err(Failure::usage)?;
        let keys = match master.filter(|_| from.join("keys").exists()) {
            Some(master) => Some(Keys::open(&from, &master).map_err(failed)?),
            None => None,
        };
        let (since_us, until_us) = (time("since", 0)?, time("until", u64::MAX)?);
        Ok(Source { from, is_folder, files, keys, endpoint: text("endpoint"), arm: text("arm"), since_us, until_us })
    }

    /// Whether a segment may hold rows that are meant, by what the manifest says.
    fn may_have(&self, file: &File) -> bool {
        let Some(Listed { facts, .. }) = &file.listed else { return true };
        self.endpoint.as_ref().is_none_or(|endpoint| *endpoint == facts.endpoint)
            && facts.from_us < self.until_us
            && facts.to_us >= self.since_us
    }

    /// The segments that may have rows which are meant.
    pub(in crate::cli) fn candidates(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| self.may_have(file))
    }

    /// Reads a segment; `None` of another endpoint. Fails where it is not what the manifest says.
    pub(in crate::cli) fn read(&self, file: &File) -> Result<Option<Segment>, Failure> {
        let failed = |error: tiltyard_capture::Error| Failure::failed(error.to_string());
        if let Some(listed) = &file.listed
            && !listed.is_whole(&self.from).map_err(failed)?
        {
            return Err(Failure::failed(format!(
                "{} is not what was written: `tiltyard capture verify` says what else is not",
                file.path.display()
            )));
        }
        let segment = Segment::open(&file.path).map_err(failed)?;
        Ok(self.endpoint.as_ref().is_none_or(|endpoint| *endpoint == segment.base().endpoint).then_some(segment))
    }

    /// Whether a row is meant.
    pub(in crate::cli) fn means(&self, row: &Row) -> bool {
        let record = &row.record;
        self.arm.as_ref().is_none_or(|arm| *arm == record.arm)
            && (self.since_us..self.until_us).contains(&record.unix_us)
    }

    /// Gives each request of a segment that is meant, in the order in which they stand there, until `each` has enough.
    pub(in crate::cli) fn requests(
        &self,
        segment: &Segment,
        mut each: impl FnMut(Request) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let failed = |error: tiltyard_capture::Error| Failure::failed(error.to_string());
        let mut open: Option<Request> = None;
        for row in segment.opened(self.keys.as_ref()).map_err(failed)? {
            let (row, opened) = row.map_err(failed)?;
            if !self.means(&row) {
                continue;
            }
            let record = match opened {
                Opened::Row(record) => Some(*record),
                Opened::Erased => None,
            };
            match &mut open {
                Some(request) if request.rows[0].sequence == row.sequence => {
                    request.rows.push(row);
                    request.records.extend(record);
                }
                _ => {
                    let next = Request { rows: vec![row], records: record.into_iter().collect() };
                    if let Some(whole) = open.replace(next)
                        && !each(whole)?
                    {
                        return Ok(());
                    }
                }
            }
        }
        open.map_or(Ok(()), |last| each(last).map(drop))
    }
}

fn walk(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() && depth < DEPTH_MAX {
            walk(&path, depth + 1, found)?;
        } else if path.extension().is_some_and(|end| end == "parquet") {
            found.push(path);
        }
    }
    Ok(())
}
