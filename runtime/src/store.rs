//! Tuned schedules on disk: one JSON file per machine, recurrence, specialisation and shape bucket.
//!
//! In: a [`Key`] and what the tuner measured. Out: the [`Record`] of the same key, in this process or a later one.
//! A file appears whole or not at all (written beside its place, then renamed), so that processes may write at
//! the same time: the last one wins. A file that can't be understood is reported and tuned again, never trusted.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The environment variable that names the folder of tuned schedules.
pub const FOLDER_VARIABLE: &str = "SELSCAN_CACHE_DIR";

/// The version of the files' layout.
const VERSION: u32 = 1;

/// A folder of tuned schedules, or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store {
    folder: Option<PathBuf>,
}

/// What a tuned schedule belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// The machine: [`selscan_codegen::Target::name`].
    pub target: String,
    /// The version of the compiler.
    pub compiler: String,
    /// The kernel's text.
    pub kernel: String,
    /// What the launch gives: inputs, states, types.
    pub spec: String,
    /// Extents, each rounded up to a power of two: schedules depend on magnitudes.
    pub bucket: String,
}

/// What the tuner found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The fastest schedule of each stage, as text.
    pub schedules: Vec<String>,
    /// Its seconds per launch.
    pub seconds: f64,
}

/// A file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    key: Key,
    record: Record,
}

/// The part of a file that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Store {
    /// The user's: the folder that [`FOLDER_VARIABLE`] names, else `selscan` in the system's cache folder.
    #[must_use]
    pub fn user() -> Store {
        let named = std::env::var_os(FOLDER_VARIABLE).filter(|v| !v.is_empty());
        let folder = named.map(PathBuf::from).or_else(|| {
            let base = etcetera::choose_base_strategy().ok()?;
            Some(etcetera::BaseStrategy::cache_dir(&base).join("selscan"))
        });
        Store { folder }
    }
    /// A folder, made when the first schedule is stored.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Store {
        Store {
            folder: Some(folder.into()),
        }
    }
    /// Nothing is remembered.
    #[must_use]
    pub fn none() -> Store {
        Store { folder: None }
    }
    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
    /// Where a key's record lies.
    #[must_use]
    pub fn path(&self, key: &Key) -> Option<PathBuf> {
        let parts = [
            &key.target,
            &key.compiler,
            &key.kernel,
            &key.spec,
            &key.bucket,
        ];
        let hash = fnv1a(parts.iter().flat_map(|part| part.bytes().chain([0])));
        Some(
            self.folder
                .as_ref()?
                .join(format!("tuned-{hash:016x}.json")),
        )
    }

    /// The record of a key, if there is one that can be read; a warning if there is one that can't.
    #[must_use]
    pub fn load(&self, key: &Key) -> Option<Record> {
        let path = self.path(key)?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => return ignored(&path, &e.to_string()),
        };
        match of_version::<File>(text.as_bytes(), VERSION) {
            Err(why) => ignored(&path, &why),
            Ok(file) if file.key != *key => ignored(&path, "it belongs to another kernel"),
            Ok(file) => Some(file.record),
        }
    }

    /// Remembers a record; the one before it is replaced at once or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder can't be made or written to.
    pub fn save(&self, key: &Key, record: &Record) -> Result<(), Error> {
        let (Some(folder), Some(path)) = (&self.folder, self.path(key)) else {
            return Ok(());
        };
        let write = || {
            fs::create_dir_all(folder)?;
            let file = File {
                version: VERSION,
                key: key.clone(),
                record: record.clone(),
            };
            let mut contents = serde_json::to_vec_pretty(&file)?;
            contents.push(b'\n');
            place(folder, &path, &contents)
        };
        write().map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })
    }
}

/// What a file of JSON holds, if its layout has that version; else why not.
pub(crate) fn of_version<T: DeserializeOwned>(bytes: &[u8], wanted: u32) -> Result<T, String> {
    let damaged = |e: serde_json::Error| format!("it is damaged ({e})");
    let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != wanted {
        return Err(format!("it has version {version}, not {wanted}"));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Writes a file in a folder that is there, whole or not at all.
pub(crate) fn place(folder: &Path, path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(contents)?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Says that a file is not used.
fn ignored(path: &Path, why: &str) -> Option<Record> {
    tracing::warn!(
        "{}: {why}; the schedule will be tuned again",
        path.display()
    );
    None
}

/// The 64-bit FNV-1a hash: the same in every process and version.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(kernel: &str) -> Key {
        Key {
            target: "a machine".into(),
            compiler: "1".into(),
            kernel: kernel.into(),
            spec: "u: f32".into(),
            bucket: "L 2048".into(),
        }
    }
    fn record(schedule: &str) -> Record {
        Record {
            schedules: vec![schedule.into()],
            seconds: 0.25,
        }
    }

    #[test]
    fn what_is_saved_is_loaded_by_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path().join("made").join("when needed"));
        assert_eq!(store.load(&key("a")), None);
        store.save(&key("a"), &record("one")).unwrap();
        store.save(&key("a"), &record("two")).unwrap();
        assert_eq!(store.load(&key("a")), Some(record("two")));
        assert_eq!(store.load(&key("b")), None);
        assert_eq!(Store::none().load(&key("a")), None);
        Store::none().save(&key("a"), &record("one")).unwrap();
    }

    #[test]
    fn a_file_that_is_not_understood_is_not_used_and_can_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        store.save(&key("a"), &record("one")).unwrap();
        let path = store.path(&key("a")).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let bad: [Vec<u8>; 6] = [
            Vec::new(),
            good.as_bytes()[..good.len() / 2].to_vec(),
            vec![0xff, 0xfe, 0],
            good.replace("\"version\": 1", "\"version\": 2")
                .into_bytes(),
            good.replace("a machine", "another machine").into_bytes(),
            good.replace("0.25", "\"fast\"").into_bytes(),
        ];
        for contents in bad {
            assert_ne!(contents, good.as_bytes());
            fs::write(&path, &contents).unwrap();
            assert_eq!(store.load(&key("a")), None, "{}", contents.escape_ascii());
            store.save(&key("a"), &record("one")).unwrap();
            assert_eq!(store.load(&key("a")), Some(record("one")));
        }
    }

    #[test]
    fn a_folder_that_can_not_be_written_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = Store::at(file.path().join("folder"));
        let error = store.save(&key("a"), &record("one")).unwrap_err();
        assert!(error.to_string().contains("tuned-"), "{error}");
        assert_eq!(store.load(&key("a")), None);
    }

    #[test]
    fn processes_may_write_at_the_same_time() {
        const FOLDER: &str = "SELSCAN_TEST_WRITES_TO";
        const NAME: &str = "SELSCAN_TEST_WRITES_AS";
        let write = |folder: &Path, name: &str| {
            let store = Store::at(folder);
            for i in 0..200 {
                store.save(&key("a"), &record(&i.to_string())).unwrap();
                let read = store.load(&key("a"));
                // Whoever wrote last, it is whole.
                assert!(read.is_some_and(|r| r.schedules[0].parse::<u32>().is_ok()));
            }
            store.save(&key(name), &record(name)).unwrap();
        };
        if let (Some(folder), Ok(name)) = (std::env::var_os(FOLDER), std::env::var(NAME)) {
            return write(Path::new(&folder), &name);
        }
        let folder = tempfile::tempdir().unwrap();
        let test = std::thread::current().name().unwrap().to_owned();
        let children = ["one", "two"].map(|name| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &test])
                .envs([(FOLDER, folder.path().as_os_str()), (NAME, name.as_ref())])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        });
        write(folder.path(), "three");
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        for name in ["one", "two", "three"] {
            let loaded = Store::at(folder.path()).load(&key(name));
            assert_eq!(loaded, Some(record(name)));
        }
        // No temporary file is left.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
