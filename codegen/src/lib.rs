//! State-space recurrences as loops.
//!
//! In: a [`selscan_dsl::scan::Scan`], extents, a Target and a Schedule. Out: a [`loop_ir::Program`], its meaning
//! (the interpreter), and a backend's code for it.
#![forbid(unsafe_code)]

pub mod dtype;
pub mod loop_ir;
pub mod plan;
pub mod schedule;
pub mod structure;
pub mod target;

pub use dtype::{Dtype, Ty};
