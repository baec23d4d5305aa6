//! Is each change of a signed log found, and each proof worth what it says?

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{Error, Limits, Log};

const T0: u64 = 1_700_000_000_000;

/// A log of many small segments with a key and checkpoints, as they lie in a data folder.
struct Data {
    folder: TempDir,
}

impl Data {
    /// `count` entries, with a checkpoint behind each of these.
    fn new(count: u64, sealed: &[u64]) -> Data {
        let data = Data { folder: tempfile::tempdir().expect("a folder") };
        let log = data.log();
        let mut sealer = data.sealer(&log);
        for n in 1..=count {
            log.record(T0 + n, "test.entry", &json!({ "n": n, "text": "quote \" feed \n end" }))
                .expect("it is written");
            if sealed.contains(&n) {
                sealer.seal(&log, T0 + n).expect("it is signed");
            }
        }
        data
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> Log {
        Log::open(&self.path("log"), Limits { segment_bytes: 900 }).expect("a log")
    }

    fn signer(&self) -> Signer {
        Signer::open(self.folder.path()).expect("a key")
    }

    fn key(&self) -> PublicKey {
        PublicKey::read(&self.path("audit.pub")).expect("a key")
    }

    fn checkpoint_file(&self) -> PathBuf {
        self.path("log/checkpoints")
    }

    fn sealer(&self, log: &Log) -> Sealer {
        Sealer::open(&self.checkpoint_file(), self.signer(), log).expect("it opens")
    }

    fn verify(&self, kept: &[Checkpoint]) -> Result<Audited> {
        verify(Entries::open(&self.path("log"), 1)?, &self.checkpoint_file(), &self.key(), kept)
    }

    fn checkpoints(&self) -> Vec<Checkpoint> {
        checkpoints(&self.checkpoint_file(), &self.key()).expect("they are whole")
    }

    fn segments(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(self.path("log")).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut found: Vec<_> = found.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
        found.sort();
        found
    }
}

fn program(arguments: &[&std::ffi::OsStr]) -> Output {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("verify_audit.py");
    Command::new("python3").arg(program).args(arguments).output().expect("python3 runs")
}

/// What the other program says, and how it ends.
fn told(arguments: &[&std::ffi::OsStr]) -> (Option<i32>, String) {
    let output = program(arguments);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), String::from_utf8(output.stdout).expect("it is text"))
}

#[test]
fn a_log_and_its_checkpoints_are_proved_by_two_programs() {
    let data = Data::new(40, &[1, 7, 8, 33]);
    let found = data.verify(&data.checkpoints()).expect("it is whole");
    assert_eq!((found.head.sequence, found.checkpoints, found.signed), (40, 4, 33));
    let (code, said) = told(&[data.folder.path().as_ref()]);
    let expected = format!("whole, entry 40 hash {} root {} checkpoints 4 signed 33", found.head.hash, found.root);
    assert!(code == Some(0) && said.contains(&expected), "expected {expected}\n told {said}");
}

#[test]
fn a_checkpoint_is_made_in_time_and_only_of_something_new() {
    let data = Data::new(0, &[]);
    let log = data.log();
    let mut sealer = data.sealer(&log);
    assert_eq!(sealer.seal(&log, T0).expect("it runs"), None, "nothing is there");
    let record = |count: u64| {
        let tickets: Vec<_> = (0..count).map(|n| log.append(T0, "test.entry", &n).expect("in line")).collect();
        tickets.iter().for_each(|ticket| log.wait(ticket).expect("it is written"));
    };
    record(1);
    assert_eq!(sealer.follow(&log, T0).expect("it runs").map(|made| made.size), Some(1), "the first at once");
    record(999);
    assert_eq!(sealer.follow(&log, T0 + 59_999).expect("it runs"), None);
    record(1);
    assert_eq!(sealer.follow(&log, T0 + 59_999).expect("it runs").map(|made| made.size), Some(1001));
    assert_eq!(sealer.follow(&log, T0 + 900_000).expect("it runs"), None, "nothing is new");
    record(1);
    assert_eq!(sealer.follow(&log, T0 + 119_998).expect("it runs"), None);
    assert_eq!(sealer.follow(&log, T0 + 119_999).expect("it runs").map(|made| made.size), Some(1002));
    record(1);
    assert_eq!(sealer.follow(&log, T0).expect("it runs").map(|made| made.size), Some(1003), "the clock was set back");
    drop(sealer);
    let again = data.sealer(&log);
    assert_eq!(again.last(), data.checkpoints().last());
    assert_eq!(data.checkpoints().len(), 4);
}

#[test]
fn what_a_chain_cannot_show_checkpoints_do() {
    let data = Data::new(40, &[8, 33]);
    let kept = data.checkpoints();
    let fails = |kept: &[Checkpoint], expected: &str| {
        let error = data.verify(kept).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        let note = data.path("kept.txt");
        let mut arguments = vec![data.folder.path().as_os_str()];
        if let Some(last) = kept.last() {
            fs::write(&note, last.to_string()).expect("written");
            arguments.extend(["--kept".as_ref(), note.as_os_str()]);
        }
        let (code, said) = told(&arguments);
        assert_eq!(code, Some(1), "{said}");
    };
    // Entries are missing from the end: the chain is whole.
    let segments = data.segments();
    let cut = segments
        .iter()
        .filter(|path| path.file_stem().is_some_and(|stem| stem >= std::ffi::OsStr::new("00000000000000000030")));
    let removed: Vec<_> = cut.map(|path| (path.clone(), fs::read(path).expect("a segment"))).collect();
    removed.iter().for_each(|(path, _)| fs::remove_file(path).expect("it was there"));
    crate::verify(&data.path("log")).expect("the chain is whole");
    fails(&[], "entries are missing from its end");
    // So are checkpoints: only who kept one can tell.
    let all = fs::read_to_string(data.checkpoint_file()).expect("checkpoints");
    fs::write(data.checkpoint_file(), &all[..all.len() / 2]).expect("written");
    data.verify(&[]).expect("nothing is left that could tell");
    fails(&kept, "the checkpoint that was kept does not prove the log");

    // The chain made anew, by who has no key.
    fs::remove_dir_all(data.path("log")).expect("it was there");
    let log = data.log();
    for n in 1..=40u64 {
        log.record(T0 + n, "test.entry", &json!({ "n": n })).expect("it is written");
    }
    drop(log);
    fs::write(data.checkpoint_file(), &all).expect("written");
    fails(&[], "the log was made anew");
    // With another key, of the same name even, the checkpoints are not by the one that is trusted.
    let key = data.key();
    fs::remove_file(data.path("audit.key")).expect("it was there");
    fs::remove_file(data.checkpoint_file()).expect("it was there");
    let log = data.log();
    data.sealer(&log).seal(&log, T0).expect("signed with a new key");
    drop(log);
    let error = verify(Entries::open(&data.path("log"), 1).expect("a log"), &data.checkpoint_file(), &key, &[]);
    assert!(error.is_err_and(|error| error.to_string().contains("and the key is of")), "another key");
    let trusted = data.path("trusted.pub");
    fs::write(&trusted, format!("{key}\n")).expect("written");
    let (code, said) = told(&["--key".as_ref(), trusted.as_ref(), data.folder.path().as_ref()]);
    assert_eq!(code, Some(1), "{said}");
}

/// As many cases as `TILTYARD_TAMPER` says: one byte of the log or of its checkpoints is another.
#[test]
fn every_changed_byte_is_found() {
    let cases = std::env::var("TILTYARD_TAMPER").map_or(3000, |cases| cases.parse().expect("a number of cases"));
    let data = Data::new(40, &[1, 7, 8, 33]);
    let mut files = data.segments();
    files.push(data.checkpoint_file());
    let whole: Vec<_> = files.iter().map(|path| fs::read(path).expect("it is there")).collect();
    let mut random = 0x7461_6d70_6572_u64;
    for case in 0..cases {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // As often the checkpoints as the log.
        let file = if case % 2 == 0 { files.len() - 1 } else { (random % (files.len() as u64 - 1)) as usize };
        let mut changed = whole[file].clone();
        let at = (random >> 8) as usize % changed.len();
        changed[at] ^= ((random >> 32) as u8).max(1);
        fs::write(&files[file], &changed).expect("it can be written");
        assert!(data.verify(&[]).is_err(), "byte {at} of {} was changed", files[file].display());
        fs::write(&files[file], &whole[file]).expect("it can be written");
    }
    data.verify(&[]).expect("it is whole again");
}

/// Each byte of the checkpoints, with bits that make another letter, number or line of it; and what a line feed becomes.
#[test]
fn each_byte_of_the_checkpoints_counts() {
    let data = Data::new(12, &[3, 10]);
    let whole = fs::read(data.checkpoint_file()).expect("checkpoints");
    for at in 0..whole.len() {
        for to in [whole[at] ^ 1, whole[at] ^ 32, whole[at] ^ 128, b'\n', b'0', b'A'] {
            let mut changed = whole.clone();
            changed[at] = to;
            if changed != whole {
                fs::write(data.checkpoint_file(), &changed).expect("written");
                assert!(data.verify(&[]).is_err(), "byte {at} became {}", to.escape_ascii());
            }
        }
    }
    // A writer that died leaves a beginning, which is no break and is cut off.
    for length in 0..whole.len() {
        fs::write(data.checkpoint_file(), &whole[..length]).expect("written");
        let found = data.verify(&[]).expect("a torn end is no break");
        let kept = found.checkpoints;
        assert_eq!(
            found.unfinished_checkpoint_bytes,
            length as u64 - kept * (whole.len() as u64 / 2).min(length as u64)
        );
        let log = data.log();
        let mut sealer = data.sealer(&log);
        assert_eq!(sealer.unfinished(), found.unfinished_checkpoint_bytes);
        sealer.seal(&log, T0 + 50).expect("it goes on");
        assert_eq!(data.verify(&[]).map(|found| (found.checkpoints, found.signed)).expect("whole"), (kept + 1, 12));
    }
}

#[test]
fn one_entry_is_proved_by_one_file() {
    let data = Data::new(20, &[5, 19]);
    let (log, key) = (data.log(), data.key());
    let last = data.checkpoints().pop().expect("a checkpoint");
    for sequence in 1..=19 {
        let proof = Proof::of(&log, sequence, &last, &key).expect("it is under the checkpoint");
        let path = data.path("proof.json");
        fs::write(&path, serde_json::to_string(&proof).expect("JSON")).expect("written");
        let read = Proof::read(&path).expect("a proof");
        let (entry, checkpoint, by) = read.verify(Some(&key)).expect("it is proved");
        assert_eq!((entry.sequence, &checkpoint, &by), (sequence, &last, &key));
    }
    let error = Proof::of(&log, 20, &last, &key).expect_err("not signed yet").to_string();
    assert!(error.contains("make another first"), "{error}");

    let proof = serde_json::to_value(Proof::of(&log, 4, &last, &key).expect("a proof")).expect("JSON");
    let other = serde_json::to_value(Proof::of(&log, 5, &last, &key).expect("a proof")).expect("JSON");
    let path = data.path("proof.json");
    let check = |proof: &Value, is_proved: bool| {
        fs::write(&path, proof.to_string()).expect("written");
        let found = Proof::read(&path).and_then(|proof| proof.verify(Some(&key)).map(drop));
        assert_eq!(found.is_ok(), is_proved, "{proof} {found:?}");
        let (code, said) = told(&["--key".as_ref(), data.path("audit.pub").as_ref(), path.as_ref()]);
        assert_eq!(code, Some(i32::from(!is_proved)), "{said}");
    };
    check(&proof, true);
    for name in ["line", "path", "checkpoint", "key", "format"] {
        let mut changed = proof.clone();
        changed[name] = match name {
            "line" | "path" => other[name].clone(),
            "checkpoint" => data.checkpoints()[0].to_string().into(),
            _ => format!("{}0", proof[name].as_str().expect("text")).into(),
        };
        check(&changed, false);
    }
}

#[test]
fn a_log_that_has_only_grown_is_proved_to_have() {
    let data = Data::new(40, &[1, 7, 8, 33, 40]);
    let (log, key, all) = (data.log(), data.key(), data.checkpoints());
    for (at, from) in all.iter().enumerate() {
        for to in &all[at..] {
            let proof = Consistency::of(&log, from, to, &key).expect("it has grown");
            assert_eq!(proof.verify(Some(&key)).expect("it is proved"), (from.clone(), to.clone()));
        }
    }
    let other = Data::new(40, &[7]);
    let error = Consistency::of(&log, &other.checkpoints()[0], &all[3], &key).expect_err("of another log").to_string();
    assert!(error.contains("does not prove the log"), "{error}");
    assert!(Consistency::of(&log, &all[2], &all[1], &key).is_err(), "a log does not shrink");
}

#[test]
fn a_part_is_exported_and_proved_without_the_rest() {
    let data = Data::new(40, &[1, 7, 8, 33]);
    let (log, key, all) = (data.log(), data.key(), data.checkpoints());
    let parts = [(None, None), (Some(1), Some(1)), (Some(9), Some(20)), (Some(5), Some(8)), (Some(33), None)];
    for (number, (from, to)) in parts.into_iter().enumerate() {
        let folder = data.path(&format!("export{number}"));
        let since = (from == Some(9)).then(|| &all[1]);
        let part = Part { from, to };
        let made = export(&log, &data.checkpoint_file(), &key, part, since, &folder).expect("it is exported");
        assert_eq!((made.from, made.to), (from.unwrap_or(1), to.unwrap_or(33)));
        assert_eq!(made.since, since.map(|since| since.size));
        assert_eq!(verify_export(&folder, None).expect("it proves itself"), made);
        let (code, said) = told(&["--key".as_ref(), data.path("audit.pub").as_ref(), folder.as_ref()]);
        let expected = format!("entries {} to {} of {}", made.from, made.to, made.checkpoint.size);
        assert!(code == Some(0) && said.contains(&expected), "expected {expected}\n told {said}");
    }
    let check = |part: Part, expected: &str| {
        let error = export(&log, &data.checkpoint_file(), &key, part, None, &data.path("none")).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(Part { from: Some(9), to: Some(40) }, "make a checkpoint first");
    check(Part { from: Some(9), to: Some(8) }, "nothing from entry 9 to 8");
    check(Part { from: Some(0), to: None }, "nothing from entry 0");
    let error = export(&log, &data.checkpoint_file(), &key, Part::default(), None, &data.path("export0"));
    assert!(error.is_err_and(|error| error.to_string().contains("is not empty")));
}

/// Copies of these files of a folder, each with one of them changed in some way.
fn changed(whole: &Path, names: &[&str], to: &Path, count: usize) -> Vec<PathBuf> {
    let mut random = 0x6578_706f_7274_u64;
    let one = |case: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let folder = to.join(case.to_string());
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::copy(whole.join(name), path).expect("a copy");
        }
        let path = folder.join(names[case % names.len()]);
        let mut bytes = fs::read(&path).expect("a file");
        let (at, to) = ((random >> 33) as usize % bytes.len(), (random >> 20) as u8);
        match random >> 61 {
            0 => bytes.truncate(at),
            1 => drop(bytes.remove(at)),
            _ => bytes[at] = to,
        }
        fs::write(&path, bytes).expect("written");
        folder
    };
    (0..count).map(one).collect()
}

/// What this program says of each folder must be what the other one says. How many are not whole.
fn agreed(folders: &[PathBuf], own: impl Fn(&Path) -> Result<String>) -> usize {
    let arguments: Vec<&std::ffi::OsStr> = folders.iter().map(|folder| folder.as_os_str()).collect();
    let (_, said) = told(&arguments);
    assert_eq!(said.lines().count(), folders.len());
    let check = |(folder, said): (&PathBuf, &str)| match own(folder) {
        Ok(own) => assert!(said.contains(&format!(": whole, {own}")), "{own}\n{said}"),
        Err(error) => assert!(said.contains(": broken, "), "{error}\n{said}"),
    };
    folders.iter().zip(said.lines()).for_each(check);
    folders.iter().filter(|folder| own(folder).is_err()).count()
}

#[test]
fn whatever_is_done_to_an_export_is_found_by_both() {
    let data = Data::new(40, &[1, 7, 8, 12, 33]);
    let whole = data.path("whole");
    let part = Part { from: Some(6), to: Some(14) };
    export(&data.log(), &data.checkpoint_file(), &data.key(), part, data.checkpoints().first(), &whole).expect("made");
    let names = ["00000000000000000006.jsonl", "checkpoints", "audit.pub", "export.json"];
    let folders = changed(&whole, &names, &data.path("changed"), 120);
    let found = agreed(&folders, |folder| {
        let found = verify_export(folder, None)?;
        Ok(format!("entries {} to {} of {}", found.from, found.to, found.checkpoint.size))
    });
    // White space in export.json, and letters' case in its hashes, say the same: all else is found.
    assert!(found > 100, "{found} of {}", folders.len());
}

#[test]
fn whatever_is_done_to_a_log_is_found_by_both() {
    let data = Data::new(12, &[1, 7, 8]);
    let segments = data.segments();
    let name = |path: &PathBuf| format!("log/{}", path.file_name().expect("a name").display());
    let segments: Vec<String> = segments.iter().map(name).collect();
    let mut names = vec!["audit.pub", "log/checkpoints"];
    names.extend(segments.iter().map(String::as_str));
    let folders = changed(data.folder.path(), &names, &data.path("changed"), 200);
    let found = agreed(&folders, |folder| {
        let key = PublicKey::read(&folder.join("audit.pub"))?;
        let found = verify(Entries::open(&folder.join("log"), 1)?, &folder.join("log/checkpoints"), &key, &[])?;
        let Audited { head, root, checkpoints, signed, unfinished_checkpoint_bytes, .. } = found;
        let Head { sequence, hash } = head;
        Ok(format!(
            "entry {sequence} hash {hash} root {root} checkpoints {checkpoints} signed {signed} unfinished {unfinished_checkpoint_bytes} "
        ))
    });
    // What was cut off at the end of the last line or checkpoint is what a writer leaves that dies.
    assert!(found > 150, "{found} of {}", folders.len());
}

#[test]
fn a_key_is_made_once_and_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let first = Signer::open(folder.path()).expect("a key");
    let again = Signer::open(folder.path()).expect("the same key");
    assert_eq!(first.public(), again.public());
    assert_eq!(&PublicKey::read(&folder.path().join("audit.pub")).expect("a key"), first.public());
    assert_eq!(first.public().to_string().parse::<PublicKey>().expect("a key"), *first.public());
    let path = folder.path().join("audit.key");
    let secret = fs::read_to_string(&path).expect("a key");
    assert!(!format!("{first:?}").contains(&secret[secret.len() - 20..]), "nobody prints it");
    assert_eq!(fs::metadata(&path).expect("a key").permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
    let error = Signer::open(folder.path()).expect_err("others may read it").to_string();
    assert!(error.contains("its mode is 640"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    fs::write(&path, &secret[..40]).expect("written");
    let error = Signer::open(folder.path()).expect_err("half a key").to_string();
    assert!(error.contains("is no key: restore it"), "{error}");
}

#[test]
fn what_is_signed_for_one_purpose_is_not_for_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let signer = Signer::open(folder.path()).expect("a key");
    let signature = signer.sign("approval", b"risk 3 prod");
    assert!(signer.public().is_signed("approval", b"risk 3 prod", &signature));
    assert!(!signer.public().is_signed("approval", b"risk 4 prod", &signature));
    assert!(!signer.public().is_signed("checkpoint", b"risk 3 prod", &signature));
    assert!(!signer.public().is_signed("approval", b"risk 3 prod", "AAAA"));
    let other = tempfile::tempdir().expect("a folder");
    let other = Signer::open(other.path()).expect("a key");
    assert!(!other.public().is_signed("approval", b"risk 3 prod", &signature));
}

/// Go's `note` package, which C2SP's format comes from, has these in its tests.
#[test]
fn keys_and_their_ids_are_those_of_other_programs() {
    let known = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let key: PublicKey = known.parse().expect("a key");
    assert_eq!(key.to_string(), known);
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let signed = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, signed).expect("base64");
    assert_eq!(bytes[..4], key.id());
    assert!(key.is_of(text, &bytes[4..]));
    assert!(matches!(
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse::<PublicKey>(),
        Err(Error::Unfit(_))
    ));
}
