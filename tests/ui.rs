//! `#[ssm_kernel]` as its users meet it: each mistake is one error at its place, and what is right compiles
//! without a warning. After a change of messages: `TRYBUILD=overwrite cargo test --test ui`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

#[test]
fn mistakes_and_kernels_without() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/fail/*.rs");
    cases.pass("tests/ui/pass/*.rs");
}

/// The stub behind a mistake keeps the uses of the kernel from being mistakes too.
#[test]
fn one_mistake_is_one_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/fail");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let expected: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "stderr")).collect();
    assert!(expected.len() >= 20, "{} cases", expected.len());
    for path in expected {
        let text = std::fs::read_to_string(&path).unwrap();
        let reports = |what: &str| text.lines().filter(|line| line.starts_with(what)).count();
        assert_eq!((reports("error"), reports("warning")), (1, 0), "{}", path.display());
    }
}
