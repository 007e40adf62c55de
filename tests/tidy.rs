//! What the compiler does not hold by itself: the direction of the crate arrows, the size of files, where `unsafe`
//! may stand, and that each file says what it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["dsl", "codegen", "runtime", "macros", "models"];
/// Lines a source file may have.
const LONGEST: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut out = Vec::new();
    for dir in CRATES
        .map(|c| format!("{c}/src"))
        .iter()
        .map(String::as_str)
        .chain(["src", "tests", "benches", "examples"])
    {
        rust_files(&root().join(dir), &mut out);
    }
    out.retain(|p| !p.components().any(|c| c.as_os_str() == "ui"));
    assert!(out.len() > 40, "only {} sources found", out.len());
    out
}

/// What a crate's manifest depends on, dev-dependencies left out.
fn dependencies(manifest: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(manifest).unwrap();
    let mut section = "";
    let mut out = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" && !line.is_empty() && !line.starts_with('#') {
            out.push(line.split(['.', '=', ' ']).next().unwrap().to_owned());
        }
    }
    out
}

#[test]
fn crates_depend_one_way() {
    let allowed: [(&str, &[&str]); 5] = [
        ("dsl", &[]),
        ("macros", &["selscan-dsl"]),
        ("codegen", &["selscan-dsl"]),
        ("runtime", &["selscan-dsl", "selscan-codegen"]),
        (
            "models",
            &["selscan-dsl", "selscan-codegen", "selscan-runtime"],
        ),
    ];
    for (name, may) in allowed {
        for dependency in dependencies(&root().join(name).join("Cargo.toml")) {
            let own = dependency.starts_with("selscan");
            assert!(
                !own || may.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn heavy_dependencies_live_in_one_crate() {
    for (dependency, homes) in [
        ("egg", &["dsl"][..]),
        ("cranelift-frontend", &["codegen"]),
        ("cranelift-jit", &["runtime"]),
        ("cranelift-module", &["runtime"]),
        ("cranelift-native", &["runtime"]),
        ("cudarc", &["runtime"]),
        ("libloading", &["runtime"]),
        ("clap", &[]),
    ] {
        for name in CRATES {
            let has = dependencies(&root().join(name).join("Cargo.toml"))
                .iter()
                .any(|d| d == dependency);
            assert!(
                !has || homes.contains(&name),
                "{dependency} belongs in {homes:?}, not in {name}"
            );
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        assert!(
            lines <= LONGEST,
            "{}: {lines} lines, at most {LONGEST}; split it by noun",
            path.display()
        );
        assert!(
            text.starts_with("//!"),
            "{}: begins without a //! header",
            path.display()
        );
    }
}

#[test]
fn unsafe_stands_in_the_runtime_devices_only() {
    // The compiler holds it in the crates that forbid it.
    for name in ["dsl", "codegen", "macros", "models"] {
        let lib = std::fs::read_to_string(root().join(name).join("src/lib.rs")).unwrap();
        assert!(
            lib.contains("#![forbid(unsafe_code)]"),
            "{name}/src/lib.rs does not forbid unsafe code"
        );
    }
    let mut files = Vec::new();
    for dir in ["runtime/src", "src", "tests", "examples"] {
        rust_files(&root().join(dir), &mut files);
    }
    // This file names the word.
    files.retain(|f| {
        !f.starts_with(root().join("runtime/src/device")) && !f.ends_with("tests/tidy.rs")
    });
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default());
        let word = |line: &str| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe")
        };
        assert!(
            !code.into_iter().any(word),
            "{}: unsafe outside runtime/src/device",
            path.display()
        );
    }
}
