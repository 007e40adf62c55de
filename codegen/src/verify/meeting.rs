//! Whether the lanes of an item meet between what one of them puts down and another reads.
//!
//! In: a proc. Out: nothing, or the first buffer that lanes have in common ([`Role::Exchange`]) which may be read after it was
//! written with no meeting between. A lane keeps its own in registers, so that whose elements they are does not count. (It does
//! where what was read is written again: a lane may read its own for the last time, and goes on to the next. That is not looked
//! at.) A wait is no meeting: lanes arrived before it, and may have put down more since.

use super::Fault;
use crate::loop_ir::{Buf, LoopKind, Proc, Rhs, Role, Stmt};

struct Meetings<'a> {
    proc: &'a Proc,
    /// By buffer: whether lanes may have written to it since they met.
    written: Vec<bool>,
}

/// The first thing that is wrong with the meetings of a proc.
pub(super) fn check(proc: &Proc) -> Result<(), Fault> {
    if proc.buffers.iter().all(|b| b.role != Role::Exchange) {
        return Ok(());
    }
    let written = vec![false; proc.buffers.len()];
    Meetings { proc, written }.stmts(&proc.body)
}

impl Meetings<'_> {
    fn stmts(&mut self, body: &[Stmt]) -> Result<(), Fault> {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), Fault> {
        match stmt {
            Stmt::Meet | Stmt::Sync => self.written.fill(false),
            Stmt::Store(buf, ..)
            | Stmt::StoreBits(buf, ..)
            | Stmt::StoreRow(buf, ..)
            | Stmt::Copy(buf, ..) => self.written[buf.0 as usize] = true,
            Stmt::Set(_, Rhs::Load(buf, _) | Rhs::LoadBits(buf, _))
            | Stmt::LoadRow(_, buf, _)
            | Stmt::Fetch(_, buf, _) => return self.read(*buf),
            Stmt::For { kind, body, .. } => {
                let before = self.written.clone();
                self.stmts(body)?;
                // What one turn has written, the next one finds.
                let more = self.written.iter().zip(&before).any(|(own, b)| *own && !b);
                if *kind == LoopKind::Serial && more {
                    self.stmts(body)?;
                }
                self.either(&before);
            }
            Stmt::If { then, els, .. } => {
                let before = self.written.clone();
                self.stmts(then)?;
                let after = std::mem::replace(&mut self.written, before);
                self.stmts(els)?;
                self.either(&after);
            }
            Stmt::Set(..)
            | Stmt::Let(..)
            | Stmt::Take(..)
            | Stmt::Prefetch(..)
            | Stmt::Arrive
            | Stmt::Wait => {}
        }
        Ok(())
    }

    /// What may have been written on one path or the other.
    fn either(&mut self, other: &[bool]) {
        for (own, other) in self.written.iter_mut().zip(other) {
            *own |= other;
        }
    }

    fn read(&self, buf: Buf) -> Result<(), Fault> {
        let decl = self.proc.buffer(buf);
        if decl.role == Role::Exchange && self.written[buf.0 as usize] {
            return Err(Fault::Unmet(decl.name.clone()));
        }
        Ok(())
    }
}
