//! Backends: a [`Proc`] as code.
//!
//! A backend sees loops, scalars and flat memory; it makes no decision of its own. If it has to know which algorithm
//! it emits, lowering is wrong.

pub mod cranelift;
pub mod cuda;

use crate::loop_ir::{Proc, Role};

/// Why a proc has no code.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EmitError {
    /// The backend has no instructions for it; a plan should not have asked.
    #[error("{proc}: {what} is not supported by the {backend} backend")]
    Unsupported {
        /// The proc's name.
        proc: String,
        /// What was asked for.
        what: String,
        /// The backend's name.
        backend: &'static str,
    },
    /// The proc is not in the grammar.
    #[error(transparent)]
    Invalid(#[from] crate::verify::VerifyError),
    /// The code generator refused the function: a defect of the backend.
    #[error("{proc}: the code generator refused the function: {message}")]
    Refused {
        /// The proc's name.
        proc: String,
        /// Its message.
        message: String,
    },
}

/// Every scratch buffer starts at a multiple of this many bytes from the scratch pointer.
pub const SCRATCH_ALIGN: usize = 64;

/// Bytes of scratch memory that one work item needs with these extents (by axis): the scratch buffers one after
/// another, each rounded up to [`SCRATCH_ALIGN`]. `None` on overflow or a missing extent.
#[must_use]
pub fn scratch_bytes(proc: &Proc, extents: &[i64]) -> Option<usize> {
    let known = |len: &crate::loop_ir::Ix| {
        len.extents()
            .into_iter()
            .all(|a| (a.0 as usize) < extents.len())
    };
    let mut total = 0usize;
    for buffer in proc.buffers.iter().filter(|b| b.role == Role::Scratch) {
        if !known(&buffer.len) {
            return None;
        }
        let len = buffer.len.eval(&|_| 0, &|a| extents[a.0 as usize])?;
        let bytes = usize::try_from(len)
            .ok()?
            .checked_mul(buffer.dtype.bytes())?;
        total = total.checked_add(bytes.checked_next_multiple_of(SCRATCH_ALIGN)?)?;
    }
    Some(total)
}
