//! State-space recurrences as mathematics.
//!
//! In: the text of a kernel. Out: a [`Recurrence`] (what is computed), its meaning in f64 ([`mod@eval`]), and
//! the simplified, classified [`scan::Scan`] that `selscan-codegen` turns into loops.
#![forbid(unsafe_code)]

pub mod affine;
pub mod array;
pub mod axis;
pub mod check;
pub mod complex;
pub mod deferred;
pub mod diagnostic;
pub mod direction;
pub mod egraph;
pub mod eval;
pub mod expr;
pub mod extract;
pub mod functions;
pub mod normal;
pub mod op;
mod order;
pub mod pairs;
pub mod partial;
mod print;
pub mod recurrence;
pub mod replay;
pub mod rules;
pub mod scan;
pub mod shape;
pub mod simplify;
pub mod summary;
pub mod syntax;
pub mod transform;
pub mod vjp;
pub mod window;

pub use affine::{Affine, WhyNot};
pub use array::{Array, Inputs, Outputs};
pub use axis::{AxisDecl, AxisId, AxisSet, Extents};
pub use check::{check_tokens, parse_file, parse_syntax};
pub use deferred::Deferred;
pub use diagnostic::{Diagnostic, ParseError, SpannedDiagnostic};
pub use eval::{EvalError, eval, eval_at, eval_with_bound, gradients, gradients_with_bound};
pub use expr::{AxisIndex, Graph, InputId, Node, NodeId, Part, ReduceOp, StateId, Type, When};
pub use op::Op;
pub use pairs::{Pair, Pairs, Parts};
pub use partial::{Partial, Reduction};
pub use recurrence::{InputDecl, InputKind, OutputDecl, Recurrence, StateDecl};
pub use replay::Replay;
pub use scan::{Class, Scan, StateScan, prepare};
pub use shape::{ShapeError, bind_extents};
pub use simplify::simplify;
pub use summary::{Chunks, Decay};
pub use vjp::{Adjoint, VjpError};

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
