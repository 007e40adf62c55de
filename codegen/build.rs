//! Names the sources that decide what a plan is compiled to, so that code on disk is not taken for that of others.
//!
//! In: the sources of this crate, and of selscan-dsl where it lies beside it. Out: `SELSCAN_SOURCES`, their hash. (A
//! registry's copies of both never change: there their versions, which go into the same name, are enough.)

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fs, io};

fn main() -> io::Result<()> {
    let mut hasher = DefaultHasher::new();
    for folder in ["src", "../dsl/src"] {
        if !Path::new(folder).is_dir() {
            continue;
        }
        println!("cargo::rerun-if-changed={folder}");
        for file in files(Path::new(folder))? {
            (file.to_string_lossy(), fs::read(&file)?).hash(&mut hasher);
        }
    }
    println!("cargo::rustc-env=SELSCAN_SOURCES={:016x}", hasher.finish());
    Ok(())
}

/// The files of a folder and of those in it, in the order of their names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            all.extend(files(&path)?);
        } else {
            all.push(path);
        }
    }
    Ok(all)
}
