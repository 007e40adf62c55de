//! What differs between the turns of a Lane loop.
//!
//! In: the body of a Lane loop and its variable. Out: the registers that it assigns, those whose value may depend
//! on the lane (the least fixpoint over assignments), and those of them read before they are assigned.

use crate::loop_ir::{LoopKind, LoopOp, Rhs, Stmt, Var};
use crate::regs::Regs;

/// Whether the lanes of a body must run in lockstep: it has a shuffle, a condition that differs between lanes,
/// or a place where they meet.
#[must_use]
pub fn in_lockstep(var: Var, body: &[Stmt]) -> bool {
    body.iter().any(|stmt| {
        let own = match stmt {
            Stmt::Set(_, Rhs::Op(op, _)) => op.is_shuffle(),
            Stmt::If { lhs, rhs, .. } => lhs.mentions(var) || rhs.mentions(var),
            Stmt::Meet => true,
            _ => false,
        };
        own || stmt.blocks().iter().any(|block| in_lockstep(var, block))
    })
}

/// The width of the Lane loops of a body; 0 (no power of two) where they differ.
pub(crate) fn width(body: &[Stmt]) -> Option<u32> {
    let mut found = None;
    for stmt in body {
        let inner = match stmt {
            Stmt::For {
                kind: LoopKind::Lane(width),
                ..
            } => Some(*width),
            Stmt::For { body, .. } => width(body),
            Stmt::If { then, els, .. } => width(then).or_else(|| width(els)),
            _ => None,
        };
        found = match (found, inner) {
            (Some(a), Some(b)) if a != b => Some(0),
            (a, b) => a.or(b),
        };
    }
    found
}

/// The registers of a Lane loop.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lanes {
    /// How many turns it has.
    pub width: u32,
    /// Registers that the body assigns.
    pub assigned: Regs,
    /// Assigned registers that may differ between lanes.
    pub varying: Regs,
    /// Varying registers that may be read before the body assigns them: their value before the loop is used.
    pub live_in: Regs,
}

impl Lanes {
    /// The registers of the Lane loop over `var` with this many turns and this body.
    #[must_use]
    pub fn of(var: Var, width: u32, body: &[Stmt]) -> Lanes {
        let mut lanes = Lanes {
            width,
            ..Lanes::default()
        };
        while lanes.spread(var, body, false) {}
        exposed(body, &mut Regs::default(), &mut lanes.live_in);
        lanes.live_in.keep(&lanes.varying);
        lanes
    }

    /// Finds registers that vary; says whether there were new ones. `apart`: under a condition that differs between lanes.
    fn spread(&mut self, var: Var, body: &[Stmt], apart: bool) -> bool {
        let mut new = false;
        for stmt in body {
            let varies = match stmt {
                Stmt::Set(_, Rhs::Index(ix) | Rhs::Load(_, ix) | Rhs::LoadBits(_, ix))
                | Stmt::LoadRow(_, _, ix) => ix.mentions(var),
                Stmt::Set(_, Rhs::Op(LoopOp::Broadcast(_), _)) => false,
                // Which lanes fetched what is not followed.
                Stmt::Take(..) => true,
                _ => stmt.reads().iter().any(|&r| self.varying.contains(r)),
            };
            for &reg in stmt.writes() {
                self.assigned.insert(reg);
                new |= (varies || apart) && self.varying.insert(reg);
            }
            let apart = match stmt {
                Stmt::If { lhs, rhs, .. } => apart || lhs.mentions(var) || rhs.mentions(var),
                _ => apart,
            };
            for block in stmt.blocks() {
                new |= self.spread(var, block, apart);
            }
        }
        new
    }
}

/// Adds to `reads` the registers that `body` may read before assigning them; `set` are those assigned on every path.
fn exposed(body: &[Stmt], set: &mut Regs, reads: &mut Regs) {
    for stmt in body {
        for &reg in stmt.reads() {
            if !set.contains(reg) {
                reads.insert(reg);
            }
        }
        set.extend(stmt.writes());
        match stmt {
            Stmt::For { body, .. } => exposed(body, &mut set.clone(), reads),
            Stmt::If { then, els, .. } => {
                let mut other = set.clone();
                exposed(then, set, reads);
                exposed(els, &mut other, reads);
                set.keep(&other);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use selscan_dsl::Op;

    use super::*;
    use crate::loop_ir::{Buf, Ix, LoopKind, Reg};
    use crate::sample::for_;

    /// A register that becomes different through a loop is different from the loop's start on.
    #[test]
    fn what_varies_spreads_around_loops() {
        let (lane, t) = (Var(0), Var(1));
        let (h, x, y, k) = (Reg(0), Reg(1), Reg(2), Reg(3));
        let add = |a, b| Rhs::Op(LoopOp::Math(Op::Add), vec![a, b]);
        let turn = vec![Stmt::Set(y, add(h, k)), Stmt::Set(h, add(h, x))];
        let body = vec![
            Stmt::Set(k, Rhs::Load(Buf(0), Ix::Const(1))),
            Stmt::Set(x, Rhs::Load(Buf(0), lane.into())),
            for_(t, LoopKind::Serial, 0, 9, turn),
        ];
        let lanes = Lanes::of(lane, 4, &body);
        assert_eq!(lanes.assigned, [h, x, y, k].into_iter().collect());
        assert_eq!(lanes.varying, [h, x, y].into_iter().collect());
        assert_eq!(lanes.live_in, [h].into_iter().collect());
    }
}
