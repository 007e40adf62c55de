//! The CUDA backend: a [`Program`] as CUDA C.
//!
//! In: procs. Out: [`Source`], one text with a kernel for each proc, and what a launch of each needs.

use selscan_dsl::AxisId;

use super::EmitError;
use crate::loop_ir::Program;

/// A program as CUDA C.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Source {
    /// The translation unit: needs no header.
    pub text: String,
    /// What a launch of each proc needs, in the order of the procs.
    pub entries: Vec<Entry>,
}

/// One proc's kernel.
///
/// Its parameters are one pointer per buffer that is not scratch, in the order of the proc's buffers, then one
/// `long long` per axis of `extents`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Its name: `extern "C"`, unique in the text.
    pub name: String,
    /// Threads of a block.
    pub threads: u32,
    /// Work items of a block: ⌈items / this⌉ blocks run them all.
    pub items: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// The axes whose extents are parameters.
    pub extents: Vec<AxisId>,
}

/// A program as CUDA C.
///
/// # Errors
/// A proc that is not in the grammar, or that asks for what a GPU lacks.
pub fn emit(program: &Program) -> Result<Source, EmitError> {
    let name = program.procs.first().map_or("", |p| p.name.as_str());
    Err(EmitError::Unsupported {
        proc: name.to_owned(),
        what: "everything".to_owned(),
        backend: "CUDA",
    })
}
