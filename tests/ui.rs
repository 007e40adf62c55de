//! `#[ssm_kernel]` as its users meet it: each mistake is one error, at its place. What is right is in tests/kernels.rs.
//! After a change of messages: `TRYBUILD=overwrite cargo test --test ui`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

#[test]
fn mistakes_are_told_at_their_place() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

/// The stub behind a mistake keeps the uses of the kernel from being mistakes too.
#[test]
fn one_mistake_is_one_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let (cases, expected): (Vec<_>, Vec<_>) =
        paths.partition(|p| p.extension().is_some_and(|e| e == "rs"));
    assert!(cases.len() >= 20, "{} cases", cases.len());
    assert_eq!(
        cases.len(),
        expected.len(),
        "a case without its .stderr, or the other way"
    );
    for path in expected {
        let text = std::fs::read_to_string(&path).unwrap();
        let reports = |what: &str| text.lines().filter(|line| line.starts_with(what)).count();
        assert_eq!(
            (reports("error"), reports("warning")),
            (1, 0),
            "{}",
            path.display()
        );
    }
}
