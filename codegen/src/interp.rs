//! The meaning of the loop IR: a [`Program`] run as it reads, one scalar at a time.
//!
//! In: a program, memory by role, extents. Out: the memory, or the first access that leaves its buffer. Registers are
//! f32 or f64 as typed; a function without an exact f32 result is its f64 meaning rounded. The turns of a Lane loop
//! each start from the registers before it, and leave none behind; where they shuffle registers they run together,
//! one statement after the other, and what they have in common they may access only as their meetings order it.

mod expr;
mod memory;
mod races;
mod run;

pub use memory::Memory;

use crate::loop_ir::{Proc, Program, Role, Stmt};
use crate::verify::{VerifyError, verify};

/// Why a program cannot run to its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InterpError {
    /// A proc that is not in the grammar.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    /// An extent that was not given.
    #[error("proc {proc} needs the extent of axis {axis}, but {given} extents were given")]
    Extent {
        /// The proc.
        proc: String,
        /// The axis.
        axis: u8,
        /// How many extents there are.
        given: usize,
    },
    /// An input, initial state or workspace that was not given.
    #[error("proc {proc} needs memory for {buffer}")]
    Missing {
        /// The proc.
        proc: String,
        /// The buffer.
        buffer: String,
    },
    /// Memory that is not as long as the proc says.
    #[error("proc {proc}: {buffer} is {wanted} bytes, but {found} were given")]
    Size {
        /// The proc.
        proc: String,
        /// The buffer.
        buffer: String,
        /// Bytes of the declaration.
        wanted: usize,
        /// Bytes given.
        found: usize,
    },
    /// An access outside of its buffer.
    #[error("proc {proc}: {buffer}[{index}] is outside of its {len} elements")]
    OutOfBounds {
        /// The proc.
        proc: String,
        /// The buffer.
        buffer: String,
        /// The index.
        index: i64,
        /// Elements of the buffer.
        len: usize,
    },
    /// Neighbours that are accessed as one but do not begin at a multiple of their number.
    #[error(
        "proc {proc}: a row of {count} elements begins at {buffer}[{index}], which is no multiple of that"
    )]
    Row {
        /// The proc.
        proc: String,
        /// The buffer.
        buffer: String,
        /// The index.
        index: i64,
        /// Elements of the row.
        count: i64,
    },
    /// Lanes that access an element that they have in common, one of them to write it, with no meeting between.
    #[error(
        "proc {proc}: {buffer}[{index}] is written by one lane and accessed by another before they meet"
    )]
    Race {
        /// The proc.
        proc: String,
        /// The buffer.
        buffer: String,
        /// The index.
        index: usize,
    },
    /// An index that leaves 64 bits, or a division by 0.
    #[error("proc {proc}: {what} overflows 64 bits or divides by zero")]
    Overflow {
        /// The proc.
        proc: String,
        /// The expression.
        what: String,
    },
}

/// Runs the procs of a program in order over all their items.
///
/// Inputs and initial states are read from `memory`; outputs and last states are written there, and made (all bits
/// set: NaN) where they are missing. `extents` are by axis; compiled-in ones are not looked at.
///
/// # Errors
/// See [`InterpError`]; the memory then holds what was written so far.
pub fn interp(program: &Program, memory: &mut Memory, extents: &[i64]) -> Result<(), InterpError> {
    let mut workspaces = memory::Workspaces::new(program, extents)?;
    for proc in &program.procs {
        verify(proc)?;
        run_proc(proc, memory, &mut workspaces, extents)?;
    }
    Ok(())
}

/// Lanes of an item.
const MOST_LANES: usize = 32;

fn run_proc(
    proc: &Proc,
    memory: &mut Memory,
    workspaces: &mut memory::Workspaces,
    extents: &[i64],
) -> Result<(), InterpError> {
    let compile = expr::Compiler { proc, extents };
    let mut lens = Vec::new();
    for buffer in &proc.buffers {
        lens.push(compile.len(&buffer.len, &buffer.name)?);
    }
    let body = match &proc.body[..] {
        [Stmt::For { .. }] => compile.stmts(&proc.body)?,
        _ => Vec::new(),
    };
    let mut buffers = Vec::new();
    let mut missing = Ok(());
    for (buffer, &len) in proc.buffers.iter().zip(&lens) {
        let bytes = len * buffer.dtype.bytes();
        let taken = match buffer.role {
            Role::Workspace(k) => workspaces.take(k),
            // A lane may have its own.
            Role::Scratch => Some(vec![u8::MAX; bytes * MOST_LANES]),
            Role::Shared | Role::Exchange => Some(vec![u8::MAX; bytes]),
            Role::Output(_) | Role::Last(_) => Some(
                memory
                    .take(buffer.role)
                    .unwrap_or_else(|| vec![u8::MAX; bytes]),
            ),
            Role::Input(_) | Role::Initial(_) => memory.take(buffer.role),
        };
        let (proc, name) = (proc.name.clone(), buffer.name.clone());
        match taken {
            Some(data) => {
                if missing.is_ok() && data.len() < bytes {
                    missing = Err(InterpError::Size {
                        proc,
                        buffer: name,
                        wanted: bytes,
                        found: data.len(),
                    });
                }
                buffers.push(Some(data));
            }
            None => {
                missing = Err(InterpError::Missing { proc, buffer: name });
                buffers.push(None);
            }
        }
    }
    let mut machine = run::Machine::new(proc, buffers, lens);
    let result = missing.and_then(|()| machine.run(&body));
    for (buffer, data) in proc.buffers.iter().zip(machine.into_buffers()) {
        match (buffer.role, data) {
            (Role::Workspace(k), Some(data)) => workspaces.put(k, data),
            (Role::Scratch | Role::Shared | Role::Exchange, _) | (_, None) => {}
            (role, Some(data)) => memory.put(role, data),
        }
    }
    result
}

#[cfg(test)]
mod tests;
