//! CUBINs on disk: one file per text, options, compute capability and version of NVRTC.
//!
//! In: a text. Out: its CUBIN, read if an earlier process made it, else compiled and written. A file appears whole or not
//! at all (written beside its place, then renamed), so that processes may write at the same time. A file is used only if
//! its header names the key and its code has the hash that the header says; else it is made again.
//!
//! The version of NVRTC is part of the key, but a hit must not load NVRTC: that takes longer than reading the file, and
//! it need not be installed where everything is compiled. So the version that was last used is kept in a file of its
//! own, `nvrtc`, read once a process. What is found under it was made from the same text by the version that its key
//! names, whether or not that is the one installed now; the first miss loads NVRTC, and from then on its version counts.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use serde::{Deserialize, Serialize};

use super::library;
use super::nvrtc::{self, Resources};
use crate::cache::lock;
use crate::error::Error;
use crate::store::place;

/// The version of the files' layout.
const VERSION: u32 = 1;
/// The folder below the store's.
const FOLDER: &str = "cuda";
/// The file that says which version of NVRTC was last used.
const LAST: &str = "nvrtc";

/// Machine code, and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Cubin {
    pub cubin: Vec<u8>,
    pub functions: Vec<Resources>,
    /// Whether it was read from disk.
    pub read: bool,
    /// Which code it is.
    pub id: Id,
}

/// What tells code from other code: the name of its file, and what the file's header must say.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Id {
    file: String,
    key: Key,
}

/// All that determines the code, the text as its length and a hash that is not that of the file's name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Key {
    text: (u64, [u64; 2]),
    options: Vec<String>,
    nvrtc: (u32, u32),
}

/// The first line of a file; the CUBIN is the rest.
#[derive(PartialEq, Serialize, Deserialize)]
struct Header {
    version: u32,
    key: Key,
    /// Bytes and hash of the code.
    cubin: (u64, [u64; 2]),
    functions: Vec<Resources>,
}

/// 128 bits of a text, of the family `salt`.
fn hash(bytes: &[u8], salt: u8) -> [u64; 2] {
    [0, 1].map(|half| {
        let mut hasher = DefaultHasher::new();
        (salt, half).hash(&mut hasher);
        hasher.write(bytes);
        hasher.finish()
    })
}

impl Id {
    /// That of the code which a version of NVRTC makes of a text for a compute capability.
    fn of(text: &str, capability: u32, nvrtc: (u32, u32)) -> Id {
        let options = nvrtc::options(capability, nvrtc);
        let (major, minor) = nvrtc;
        let all = format!("{VERSION}\n{major}.{minor}\n{}\n{text}", options.join("\n"));
        let [a, b] = hash(all.as_bytes(), 0);
        Id {
            file: format!("{a:016x}{b:016x}.cubin"),
            key: Key {
                text: (text.len() as u64, hash(text.as_bytes(), 1)),
                options,
                nvrtc,
            },
        }
    }
    /// The version of NVRTC that makes it.
    pub fn nvrtc(&self) -> (u32, u32) {
        self.key.nvrtc
    }
    /// Whether it is code for a compute capability by a version of NVRTC.
    pub fn is_for(&self, capability: u32, nvrtc: (u32, u32)) -> bool {
        self.key.options == nvrtc::options(capability, nvrtc) && self.key.nvrtc == nvrtc
    }
}

/// The folder of compiled code in that of a store.
pub(super) fn folder(store: Option<&Path>) -> Option<PathBuf> {
    store.map(|folder| folder.join(FOLDER))
}

/// The version of NVRTC whose code is looked for: the one that is loaded, else the one that was last used.
pub(super) fn version(folder: Option<&Path>) -> Option<(u32, u32)> {
    library::loaded_version().or_else(|| last_version(folder?))
}

/// The code of a text for a compute capability, from a folder or from NVRTC.
pub(super) fn obtain(folder: Option<&Path>, text: &str, capability: u32) -> Result<Cubin, Error> {
    let read = |version| read(folder?, &Id::of(text, capability, version));
    let known = version(folder);
    if let Some(found) = known.and_then(read) {
        return Ok(found);
    }
    // Now NVRTC is needed, so its version is known; another one may have been the last.
    let installed = library::nvrtc()?.version;
    if known != Some(installed)
        && let Some(found) = read(installed)
    {
        return Ok(found);
    }
    make(folder, text, capability)
}

/// The code of a text from NVRTC, whatever is on disk; what is there is replaced.
pub(super) fn make(folder: Option<&Path>, text: &str, capability: u32) -> Result<Cubin, Error> {
    let made = nvrtc::compile(text, capability)?;
    let cubin = Cubin {
        cubin: made.cubin,
        functions: made.functions,
        read: false,
        id: Id::of(text, capability, made.version),
    };
    if let Some(folder) = folder
        && let Err(why) = write(folder, &cubin)
    {
        tracing::warn!(
            "{}: {why}; the kernel is used, but will be compiled again by the next process",
            folder.display()
        );
    }
    Ok(cubin)
}

/// The code of that name, if it is there and whole.
pub(super) fn read(folder: &Path, id: &Id) -> Option<Cubin> {
    let path = folder.join(&id.file);
    let mut bytes = contents(&path)?;
    let ignored = |why: &str| ignored(&path, why);
    let Some(end) = bytes.iter().position(|&b| b == b'\n') else {
        return ignored("it is damaged");
    };
    let Ok(header) = serde_json::from_slice::<Header>(&bytes[..end]) else {
        return ignored("it is damaged");
    };
    let cubin = bytes.split_off(end + 1);
    if header.version != VERSION || header.key != id.key {
        return ignored("it belongs to another kernel");
    }
    if header.cubin != (cubin.len() as u64, hash(&cubin, 2)) {
        return ignored("it is damaged");
    }
    Some(Cubin {
        cubin,
        functions: header.functions,
        read: true,
        id: id.clone(),
    })
}

/// What is in a file, if it is there and can be read.
pub(super) fn contents(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => ignored(path, &e.to_string()),
    }
}

/// Says that a file is as if it were not there.
pub(super) fn ignored<T>(path: &Path, why: &str) -> Option<T> {
    tracing::warn!("{}: {why}; the kernel is compiled again", path.display());
    None
}

fn write(folder: &Path, made: &Cubin) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let header = Header {
        version: VERSION,
        key: made.id.key.clone(),
        cubin: (made.cubin.len() as u64, hash(&made.cubin, 2)),
        functions: made.functions.clone(),
    };
    let mut contents = serde_json::to_vec(&header)?;
    contents.push(b'\n');
    contents.extend(&made.cubin);
    place(folder, &folder.join(&made.id.file), &contents)?;
    let (major, minor) = made.id.nvrtc();
    let version = format!("{major}.{minor}");
    if fs::read_to_string(folder.join(LAST)).ok().as_deref() != Some(version.as_str()) {
        place(folder, &folder.join(LAST), version.as_bytes())?;
    }
    Ok(())
}

/// The version of NVRTC that was last used, by what is written in the folder.
fn last_version(folder: &Path) -> Option<(u32, u32)> {
    type Known = Mutex<Vec<(PathBuf, (u32, u32))>>;
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let mut known = lock(KNOWN.get_or_init(Known::default));
    if let Some((_, version)) = known.iter().find(|(f, _)| f == folder) {
        return Some(*version);
    }
    let text = fs::read_to_string(folder.join(LAST)).ok()?;
    let (major, minor) = text.trim().split_once('.')?;
    let version = (major.parse().ok()?, minor.parse().ok()?);
    known.push((folder.to_owned(), version));
    Some(version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "extern \"C\" __global__ void one(float* y) { y[0] = 1.0f; }";

    fn cubin(code: &[u8]) -> Cubin {
        Cubin {
            cubin: code.to_vec(),
            functions: vec![Resources {
                name: "one".into(),
                registers: 8,
                ..Resources::default()
            }],
            read: false,
            id: id(TEXT, 90),
        }
    }

    fn id(text: &str, capability: u32) -> Id {
        Id::of(text, capability, (13, 0))
    }

    #[test]
    fn what_is_written_is_read_by_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made when needed");
        assert!(read(&folder, &id(TEXT, 90)).is_none());
        assert_eq!(last_version(&folder), None);
        write(&folder, &cubin(b"\x7fELF\ncode")).unwrap();
        let found = read(&folder, &id(TEXT, 90)).unwrap();
        assert_eq!(found.cubin, b"\x7fELF\ncode");
        assert_eq!(found.functions, cubin(b"").functions);
        assert!(found.read);
        assert_eq!(last_version(&folder), Some((13, 0)));
        assert!(read(&folder, &id(TEXT, 80)).is_none());
        assert!(read(&folder, &Id::of(TEXT, 90, (13, 1))).is_none());
        assert!(read(&folder, &id(&TEXT.replace("1.0f", "2.0f"), 90)).is_none());
    }

    #[test]
    fn a_file_that_is_damaged_is_not_used_and_can_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, &cubin(b"the code")).unwrap();
        let path = folder.join(&id(TEXT, 90).file);
        let good = fs::read(&path).unwrap();
        let changed = |from: &str, to: &str| {
            let text = String::from_utf8(good.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            text.replace(from, to).into_bytes()
        };
        let bad = [
            vec![],
            good[..good.len() / 2].to_vec(),
            good[..good.len() - 1].to_vec(),
            [&good[..], b"more"].concat(),
            vec![0xff, b'\n', 0],
            changed("the code", "The code"),
            changed("sm_90", "sm_91"),
            changed("\"version\":1", "\"version\":2"),
        ];
        for contents in bad {
            fs::write(&path, &contents).unwrap();
            assert!(
                read(folder, &id(TEXT, 90)).is_none(),
                "{}",
                contents.escape_ascii()
            );
            write(folder, &cubin(b"the code")).unwrap();
            assert_eq!(fs::read(&path).unwrap(), good);
        }
        // A folder in the place of the file.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read(folder, &id(TEXT, 90)).is_none());
        // No temporary file is left.
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2);
    }

    #[test]
    fn the_second_time_is_from_disk() {
        if !nvrtc::tests_can_run() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let text = TEXT.replace("one", "the_second_time");
        let first = obtain(Some(folder.path()), &text, 75).unwrap();
        assert!(!first.read);
        let second = obtain(Some(folder.path()), &text, 75).unwrap();
        assert!(second.read);
        assert_eq!(first.cubin, second.cubin);
        assert_eq!(first.functions, second.functions);
        assert!(!make(Some(folder.path()), &text, 75).unwrap().read);
        assert!(!obtain(None, &text, 75).unwrap().read);
    }
}
