//! State-space recurrences as mathematics.
//!
//! In: the text of a kernel. Out: a [`Recurrence`] (what is computed), its meaning in f64 ([`mod@eval`]), and
//! the simplified, classified [`scan::Scan`] that `selscan-codegen` turns into loops.
#![forbid(unsafe_code)]

pub mod axis;
pub mod expr;
pub mod op;
pub mod recurrence;

pub use axis::{AxisDecl, AxisId, AxisSet, Extents};
pub use expr::{AxisIndex, Graph, InputId, Node, NodeId, Part, ReduceOp, StateId, Type, When};
pub use op::Op;
pub use recurrence::{InputDecl, InputKind, OutputDecl, Recurrence, StateDecl};
