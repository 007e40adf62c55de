//! What differs between the turns of a Lane loop.
//!
//! In: the body of a Lane loop and its variable. Out: the registers that it assigns, those whose value may depend
//! on the lane (the least fixpoint over assignments), and those of them read before they are assigned.

use std::collections::BTreeSet;

use crate::loop_ir::{LoopOp, Reg, Rhs, Stmt, Var};

/// Whether the lanes of a body must run in lockstep: it has a shuffle, or a condition that differs between lanes.
#[must_use]
pub fn in_lockstep(var: Var, body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Set(_, Rhs::Op(op, _)) => op.is_shuffle(),
        Stmt::For { body, .. } => in_lockstep(var, body),
        Stmt::If {
            lhs,
            rhs,
            then,
            els,
        } => {
            lhs.mentions(var)
                || rhs.mentions(var)
                || in_lockstep(var, then)
                || in_lockstep(var, els)
        }
        Stmt::Let(..)
        | Stmt::Set(..)
        | Stmt::Store(..)
        | Stmt::StoreBits(..)
        | Stmt::LoadRow(..)
        | Stmt::StoreRow(..)
        | Stmt::Fetch(..)
        | Stmt::Prefetch(..)
        | Stmt::Copy(..)
        | Stmt::Sync
        | Stmt::Take(..) => false,
    })
}

/// The registers of a Lane loop.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lanes {
    /// How many turns it has.
    pub width: u32,
    /// Registers that the body assigns.
    pub assigned: BTreeSet<Reg>,
    /// Assigned registers that may differ between lanes.
    pub varying: BTreeSet<Reg>,
    /// Varying registers that may be read before the body assigns them: their value before the loop is used.
    pub live_in: BTreeSet<Reg>,
}

impl Lanes {
    /// The registers of the Lane loop over `var` with this many turns and this body.
    #[must_use]
    pub fn of(var: Var, width: u32, body: &[Stmt]) -> Lanes {
        let mut lanes = Lanes {
            width,
            ..Lanes::default()
        };
        loop {
            let before = lanes.varying.len();
            lanes.spread(var, body, false);
            if lanes.varying.len() == before {
                break;
            }
        }
        let mut reads = BTreeSet::new();
        exposed(body, &mut BTreeSet::new(), &mut reads);
        lanes.live_in = reads.intersection(&lanes.varying).copied().collect();
        lanes
    }

    /// `apart`: under a condition that differs between lanes.
    fn spread(&mut self, var: Var, body: &[Stmt], apart: bool) {
        for stmt in body {
            match stmt {
                Stmt::Set(reg, rhs) => {
                    self.assigned.insert(*reg);
                    let varies = match rhs {
                        Rhs::Const(_) | Rhs::Bits(_) => false,
                        Rhs::Index(ix) | Rhs::Load(_, ix) | Rhs::LoadBits(_, ix) => {
                            ix.mentions(var)
                        }
                        Rhs::Op(LoopOp::Broadcast(_), _) => false,
                        Rhs::Op(_, args) => args.iter().any(|a| self.varying.contains(a)),
                    };
                    if varies || apart {
                        self.varying.insert(*reg);
                    }
                }
                // Which lanes fetched what is not followed.
                Stmt::Take(regs, _) => {
                    self.assigned.extend(regs);
                    self.varying.extend(regs);
                }
                Stmt::LoadRow(regs, _, ix) => {
                    self.assigned.extend(regs);
                    if apart || ix.mentions(var) {
                        self.varying.extend(regs);
                    }
                }
                Stmt::For { body, .. } => self.spread(var, body, apart),
                Stmt::If {
                    lhs,
                    rhs,
                    then,
                    els,
                } => {
                    let apart = apart || lhs.mentions(var) || rhs.mentions(var);
                    self.spread(var, then, apart);
                    self.spread(var, els, apart);
                }
                Stmt::Let(..)
                | Stmt::Store(..)
                | Stmt::StoreBits(..)
                | Stmt::StoreRow(..)
                | Stmt::Fetch(..)
                | Stmt::Prefetch(..)
                | Stmt::Copy(..)
                | Stmt::Sync => {}
            }
        }
    }
}

/// Adds to `reads` the registers that `body` may read before assigning them; `set` are those assigned on every path.
fn exposed(body: &[Stmt], set: &mut BTreeSet<Reg>, reads: &mut BTreeSet<Reg>) {
    let read = |reg: &Reg, set: &BTreeSet<Reg>, reads: &mut BTreeSet<Reg>| {
        if !set.contains(reg) {
            reads.insert(*reg);
        }
    };
    for stmt in body {
        match stmt {
            Stmt::Set(reg, rhs) => {
                if let Rhs::Op(_, args) = rhs {
                    args.iter().for_each(|a| read(a, set, reads));
                }
                set.insert(*reg);
            }
            Stmt::Store(_, _, reg) | Stmt::StoreBits(_, _, reg) => read(reg, set, reads),
            Stmt::LoadRow(regs, ..) | Stmt::Take(regs, _) => set.extend(regs),
            Stmt::StoreRow(.., regs) => regs.iter().for_each(|r| read(r, set, reads)),
            Stmt::For { body, .. } => exposed(body, &mut set.clone(), reads),
            Stmt::Let(..) | Stmt::Fetch(..) | Stmt::Prefetch(..) | Stmt::Copy(..) | Stmt::Sync => {}
            Stmt::If { then, els, .. } => {
                let mut other = set.clone();
                exposed(then, set, reads);
                exposed(els, &mut other, reads);
                set.retain(|r| other.contains(r));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use selscan_dsl::Op;

    use super::*;
    use crate::loop_ir::{Buf, Ix, LoopKind};
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
        assert_eq!(lanes.assigned, BTreeSet::from([h, x, y, k]));
        assert_eq!(lanes.varying, BTreeSet::from([h, x, y]));
        assert_eq!(lanes.live_in, BTreeSet::from([h]));
    }
}
