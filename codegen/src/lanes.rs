//! What differs between the turns of a Lane loop.
//!
//! In: the body of a Lane loop and its variable. Out: the registers that it assigns, those whose value may depend
//! on the lane (the least fixpoint over assignments), and those of them read before they are assigned.

use std::collections::BTreeSet;

use crate::loop_ir::{Reg, Rhs, Stmt, Var};

/// The registers of a Lane loop.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lanes {
    /// Registers that the body assigns.
    pub assigned: BTreeSet<Reg>,
    /// Assigned registers that may differ between lanes.
    pub varying: BTreeSet<Reg>,
    /// Varying registers that may be read before the body assigns them: their value before the loop is used.
    pub live_in: BTreeSet<Reg>,
}

impl Lanes {
    /// The registers of the Lane loop over `var` with this body.
    #[must_use]
    pub fn of(var: Var, body: &[Stmt]) -> Lanes {
        let mut lanes = Lanes::default();
        loop {
            let before = lanes.varying.len();
            lanes.spread(var, body);
            if lanes.varying.len() == before {
                break;
            }
        }
        let mut reads = BTreeSet::new();
        exposed(body, &mut BTreeSet::new(), &mut reads);
        lanes.live_in = reads.intersection(&lanes.varying).copied().collect();
        lanes
    }

    fn spread(&mut self, var: Var, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Set(reg, rhs) => {
                    self.assigned.insert(*reg);
                    let varies = match rhs {
                        Rhs::Const(_) | Rhs::Bits(_) => false,
                        Rhs::Index(ix) | Rhs::Load(_, ix) | Rhs::LoadBits(_, ix) => {
                            ix.mentions(var)
                        }
                        Rhs::Op(_, args) => args.iter().any(|a| self.varying.contains(a)),
                    };
                    if varies {
                        self.varying.insert(*reg);
                    }
                }
                Stmt::For { body, .. } => self.spread(var, body),
                Stmt::If { then, els, .. } => {
                    self.spread(var, then);
                    self.spread(var, els);
                }
                Stmt::Let(..) | Stmt::Store(..) | Stmt::StoreBits(..) => {}
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
            Stmt::For { body, .. } => exposed(body, &mut set.clone(), reads),
            Stmt::Let(..) => {}
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
    use crate::loop_ir::{Buf, Ix, LoopKind, LoopOp};
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
        let lanes = Lanes::of(lane, &body);
        assert_eq!(lanes.assigned, BTreeSet::from([h, x, y, k]));
        assert_eq!(lanes.varying, BTreeSet::from([h, x, y]));
        assert_eq!(lanes.live_in, BTreeSet::from([h]));
    }
}
