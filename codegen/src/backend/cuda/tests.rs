#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn names_are_in_letters_of_c() {
    assert_eq!(identifier("h₀_α1"), "h___1");
}
