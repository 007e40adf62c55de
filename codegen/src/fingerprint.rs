//! A name for a plan: what is compiled from it can be found by it without being made.
//!
//! In: a [`Plan`]. Out: 128 bits that tell it from others, and that change with the sources that lower and emit it.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::plan::Plan;

/// What compiles plans: the versions of the crates, and their sources as far as they are at hand.
const COMPILER: [&str; 3] = [
    selscan_dsl::VERSION,
    env!("CARGO_PKG_VERSION"),
    env!("SELSCAN_SOURCES"),
];

/// 128 bits of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint([u64; 2]);

impl Fingerprint {
    /// That of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Fingerprint {
        Fingerprint([0u8, 1].map(|half| {
            let mut hasher = DefaultHasher::new();
            (half, COMPILER).hash(&mut hasher);
            plan.hash(&mut hasher);
            hasher.finish()
        }))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}
