//! Whether 32 bits hold every index of a proc.
//!
//! In: a proc, extents. Out: whether each index expression, and each part of one, stays within 31 bits and a sign for
//! every item and every turn of every loop, by interval arithmetic: a loop variable is anything from its first value to one
//! step beyond its last.

use selscan_dsl::Extents;

use crate::loop_ir::{Ix, LoopKind, Proc, Rhs, Stmt};

/// Whether it is so.
#[must_use]
pub fn is_narrow(proc: &Proc, extents: &Extents) -> bool {
    let mut ranges = Ranges {
        extents,
        threads: i128::from(proc.threads),
        vars: vec![Range(0, 0); proc.vars.len()],
    };
    ranges.block(&proc.body).is_some()
}

/// Numbers from the first to the second.
#[derive(Clone, Copy)]
struct Range(i128, i128);

struct Ranges<'a> {
    extents: &'a Extents,
    threads: i128,
    /// Of each variable.
    vars: Vec<Range>,
}

impl Ranges<'_> {
    /// `None` if an index may leave 32 bits.
    fn block(&mut self, body: &[Stmt]) -> Option<()> {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Option<()> {
        match stmt {
            Stmt::For {
                var,
                kind,
                lo,
                hi,
                step,
                body,
            } => {
                let (lo, hi) = (self.ix(lo)?, self.ix(hi)?);
                // What the variable holds when the loop ends.
                let beyond = match kind {
                    LoopKind::Core | LoopKind::Lane(_) => 0,
                    LoopKind::Serial => i128::from(*step),
                    LoopKind::Team => self.threads,
                };
                fits(Range(lo.0, hi.1 + beyond))?;
                self.vars[var.0 as usize] = Range(lo.0, lo.0.max(hi.1 - 1));
                self.block(body)
            }
            Stmt::If {
                lhs,
                rhs,
                then,
                els,
            } => {
                self.ix(lhs)?;
                self.ix(rhs)?;
                self.block(then)?;
                self.block(els)
            }
            Stmt::Let(var, ix) => {
                self.vars[var.0 as usize] = self.ix(ix)?;
                Some(())
            }
            Stmt::Set(_, Rhs::Index(ix) | Rhs::Load(_, ix) | Rhs::LoadBits(_, ix))
            | Stmt::Store(_, ix, _)
            | Stmt::StoreBits(_, ix, _)
            | Stmt::LoadRow(_, _, ix)
            | Stmt::StoreRow(_, ix, _)
            | Stmt::Fetch(_, _, ix)
            | Stmt::Prefetch(_, ix) => self.ix(ix).map(|_| ()),
            Stmt::Copy(_, at, _, from, _) => self.ix(at).and(self.ix(from)).map(|_| ()),
            Stmt::Set(_, Rhs::Const(_) | Rhs::Bits(_) | Rhs::Op(..))
            | Stmt::Take(..)
            | Stmt::Sync
            | Stmt::Arrive
            | Stmt::Wait
            | Stmt::Meet => Some(()),
        }
    }

    fn ix(&self, ix: &Ix) -> Option<Range> {
        let range = match ix {
            Ix::Const(k) => Range(i128::from(*k), i128::from(*k)),
            Ix::Var(v) => self.vars[v.0 as usize],
            Ix::Extent(axis) => {
                let n = self.extents.get(*axis) as i128;
                Range(n, n)
            }
            Ix::Add(a, b) => {
                let (a, b) = (self.ix(a)?, self.ix(b)?);
                Range(a.0 + b.0, a.1 + b.1)
            }
            Ix::Sub(a, b) => {
                let (a, b) = (self.ix(a)?, self.ix(b)?);
                Range(a.0 - b.1, a.1 - b.0)
            }
            Ix::Mul(a, b) => {
                let (a, b) = (self.ix(a)?, self.ix(b)?);
                let all = [a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1];
                let least = all.iter().copied().min()?;
                Range(least, all.iter().copied().max()?)
            }
            // Operands are never negative, the divisor never 0, whatever the ranges of their parts say.
            Ix::Div(a, b) => {
                let (a, b) = (self.ix(a)?, self.ix(b)?);
                Range(a.0.max(0) / b.1.max(1), a.1.max(0) / b.0.max(1))
            }
            Ix::Min(a, b) => {
                let (a, b) = (self.ix(a)?, self.ix(b)?);
                Range(a.0.min(b.0), a.1.min(b.1))
            }
        };
        fits(range)
    }
}

/// The range, if 32 bits hold it: products of two such ranges cannot overflow.
fn fits(range: Range) -> Option<Range> {
    let (least, most) = (i128::from(i32::MIN), i128::from(i32::MAX));
    (range.0 >= least && range.1 <= most).then_some(range)
}
