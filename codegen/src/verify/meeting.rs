//! Whether the lanes of an item meet between what one of them puts down and another reads.
//!
//! In: a proc. Out: nothing, or the first buffer that lanes have in common ([`Role::Exchange`]) which may be read after it was
//! written with no meeting between. A lane keeps its own in registers, so that whose elements they are does not count, but from
//! one turn of a loop to the next: what is updated in place, each turn its own elements, is no other lane's. (It does count where
//! what was read is written again: a lane may read its own for the last time, and goes on to the next. That is not looked at,
//! nor that no two lanes write the same: [`crate::interp()`] sees both.) A wait is no meeting: lanes arrived before it, and may
//! have put down more since.

use super::Fault;
use crate::loop_ir::{Buf, LoopKind, Proc, Rhs, Role, Stmt};
use crate::regs::each;

/// Whether a body loads of a buffer only what it also stores, at the same index.
fn in_place(body: &[Stmt], of: Buf) -> bool {
    let (mut loads, mut stores) = (Vec::new(), Vec::new());
    each(body, &mut |stmt| match stmt {
        Stmt::Set(_, Rhs::Load(buf, ix) | Rhs::LoadBits(buf, ix))
        | Stmt::LoadRow(_, buf, ix)
        | Stmt::Fetch(_, buf, ix)
            if *buf == of =>
        {
            loads.push((ix.clone(), stmt.writes().len()));
        }
        Stmt::Store(buf, ix, _) | Stmt::StoreBits(buf, ix, _) if *buf == of => {
            stores.push((ix.clone(), 1));
        }
        Stmt::StoreRow(buf, ix, regs) if *buf == of => stores.push((ix.clone(), regs.len())),
        _ => {}
    });
    loads.iter().all(|load| stores.contains(load))
}

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
                    let after = self.written.clone();
                    for (k, written) in self.written.iter_mut().enumerate() {
                        *written &= before[k] || !in_place(body, Buf(k as u32));
                    }
                    self.stmts(body)?;
                    self.either(&after);
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
