//! State-space recurrences as loops.
//!
//! In: a [`selscan_dsl::scan::Scan`], extents, a Target and a Schedule. Out: a [`loop_ir::Program`], its meaning
//! (the interpreter), and a backend's code for it.
#![forbid(unsafe_code)]

pub mod ahead;
pub mod backend;
pub mod backward;
pub mod candidates;
mod chunked;
pub mod contract;
pub mod cost;
pub mod dtype;
pub mod fingerprint;
pub mod interp;
pub mod ix;
pub mod lanes;
pub mod legalize;
pub mod loop_ir;
pub mod lower;
pub mod narrow;
pub mod options;
pub mod plan;
pub mod polynomial;
pub mod regs;
pub mod schedule;
pub mod stack;
pub mod structure;
pub mod target;
pub mod verify;
pub mod wide;

pub use backward::Backward;
pub use candidates::{candidates, default_plan};
pub use dtype::{Dtype, Ty};
pub use fingerprint::Fingerprint;
pub use lower::lower;
pub use options::Options;
pub use plan::{Plan, Refusal};
pub use schedule::{Algorithm, Order, Schedule};
pub use target::{Gpu, Target};

#[cfg(test)]
mod sample;
