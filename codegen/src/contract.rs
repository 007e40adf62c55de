//! Contraction: a product whose one use is a sum becomes a fused multiply-add.
//!
//! In: a proc. Out: the proc with `p = a·b; s = p + c` as `s = fma(a, b, c)`, and likewise for differences, wherever
//! both are in one run of statements, nothing between them reassigns p, a or b, and p is not used otherwise.
//! One rounding less: never less accurate than what was written.

use selscan_dsl::Op;

use crate::loop_ir::{LoopOp, Proc, Reg, Rhs, Stmt};
use crate::regs::each;

/// The proc with products contracted into sums.
#[must_use]
pub fn contract(mut proc: Proc) -> Proc {
    let body = std::mem::take(&mut proc.body);
    let mut counts = vec![(0, 0); proc.regs.len()];
    each(&body, &mut |stmt| {
        stmt.writes()
            .iter()
            .for_each(|r| counts[r.0 as usize].0 += 1);
        stmt.reads()
            .iter()
            .for_each(|r| counts[r.0 as usize].1 += 1);
    });
    let mut contraction = Contraction {
        heights: vec![0; proc.regs.len()],
        assigned: vec![0; proc.regs.len()],
        proc: &mut proc,
        counts,
        run: 0,
        now: 0,
    };
    proc.body = contraction.block(body);
    proc
}

struct Contraction<'a> {
    proc: &'a mut Proc,
    /// (assignments, uses) of every register.
    counts: Vec<(u32, u32)>,
    /// How long after its operands' operands each register is known: the costs along the longest way to it.
    heights: Vec<u32>,
    /// When each register was last assigned; 0 if not yet.
    assigned: Vec<usize>,
    /// How many statements there were before the present run of them, and up to now.
    run: usize,
    now: usize,
}

impl Contraction<'_> {
    fn block(&mut self, body: Vec<Stmt>) -> Vec<Stmt> {
        // A product that was fused leaves its place empty.
        let mut out: Vec<Option<Stmt>> = Vec::with_capacity(body.len());
        self.run = self.now;
        for stmt in body {
            match stmt {
                stmt @ (Stmt::For { .. } | Stmt::If { .. }) => {
                    let stmt = stmt.map_blocks(|body| self.block(body));
                    self.push(&mut out, stmt);
                    self.run = self.now;
                }
                Stmt::Set(reg, Rhs::Op(LoopOp::Math(op @ (Op::Add | Op::Sub)), args)) => {
                    self.sum(&mut out, reg, op, args);
                }
                stmt => self.push(&mut out, stmt),
            }
        }
        out.into_iter().flatten().collect()
    }

    fn push(&mut self, out: &mut Vec<Option<Stmt>>, stmt: Stmt) {
        if let Stmt::Set(reg, Rhs::Op(op, args)) = &stmt {
            let cost = match op {
                LoopOp::Math(op) => op.info().cost,
                _ => 1,
            };
            let operands = args.iter().map(|a| self.heights[a.0 as usize]).max();
            self.heights[reg.0 as usize] = operands.unwrap_or(0) + cost;
        }
        self.now += 1;
        for reg in stmt.writes() {
            self.assigned[reg.0 as usize] = self.now;
        }
        out.push(Some(stmt));
    }

    fn negated(&mut self, out: &mut Vec<Option<Stmt>>, of: Reg) -> Reg {
        let minus = self.proc.reg(self.proc.ty(of));
        self.heights.push(0);
        self.assigned.push(0);
        let negated = Rhs::Op(LoopOp::Math(Op::Neg), vec![of]);
        self.push(out, Stmt::Set(minus, negated));
        minus
    }

    /// Appends `reg = args[0] op args[1]`, fused with the product among its operands if there is one; of two, with
    /// the one that is known later, which then waits for one operation less.
    fn sum(&mut self, out: &mut Vec<Option<Stmt>>, reg: Reg, op: Op, args: Vec<Reg>) {
        let found = [1, 0]
            .into_iter()
            .filter_map(|side| Some((side, self.product(out, args[side])?)))
            .rev()
            .max_by_key(|(side, _)| self.heights[args[*side].0 as usize]);
        let Some((side, (at, factors))) = found else {
            return self.push(out, Stmt::Set(reg, Rhs::Op(LoopOp::Math(op), args)));
        };
        out[at] = None;
        // A backend computes in the place of the first factor: that of the register that is assigned.
        let (mut a, b) = if factors.1 == reg {
            (factors.1, factors.0)
        } else {
            factors
        };
        let mut c = args[1 - side];
        match (op, side) {
            (Op::Sub, 1) => a = self.negated(out, a),
            (Op::Sub, _) => c = self.negated(out, c),
            _ => {}
        }
        self.push(out, Stmt::Set(reg, Rhs::Op(LoopOp::Fma, vec![a, b, c])));
    }

    /// Where in `out` the product `reg` is formed, and its factors, if it may move to the end of `out`: it is in the present
    /// run of statements, used once, and no factor was assigned since.
    fn product(&self, out: &[Option<Stmt>], reg: Reg) -> Option<(usize, (Reg, Reg))> {
        let formed = self.assigned[reg.0 as usize];
        if self.counts.get(reg.0 as usize) != Some(&(1, 1)) || formed <= self.run {
            return None;
        }
        // Every statement since has a place in `out`.
        let at = out.len() - 1 - (self.now - formed);
        match out.get(at)? {
            Some(Stmt::Set(r, Rhs::Op(LoopOp::Math(Op::Mul), args))) if *r == reg => {
                let moves = args.iter().all(|a| self.assigned[a.0 as usize] <= formed);
                moves.then_some((at, (args[0], args[1])))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Ty;
    use crate::loop_ir::{Ix, LoopKind};
    use crate::sample::{empty, for_};

    const ADD: LoopOp = LoopOp::Math(Op::Add);
    const SUB: LoopOp = LoopOp::Math(Op::Sub);
    const MUL: LoopOp = LoopOp::Math(Op::Mul);

    /// The statements after contraction of `r = op(args)`, …, on registers 0 to 7.
    fn contracted(body: &[(u32, LoopOp, &[u32])]) -> Vec<String> {
        let mut p = empty(Ix::Const(1));
        p.regs = vec![Ty::F32; 8];
        let item = p.var("item");
        let set = |(to, op, args): &(u32, LoopOp, &[u32])| {
            Stmt::Set(
                Reg(*to),
                Rhs::Op(*op, args.iter().map(|a| Reg(*a)).collect()),
            )
        };
        let body = body.iter().map(set).collect();
        p.body = vec![for_(item, LoopKind::Core, 0, 1, body)];
        let text = contract(p).to_string();
        let stmts = text.lines().filter(|l| l.contains(" = "));
        stmts.map(|l| l.trim().replace(": f32", "")).collect()
    }

    #[test]
    fn a_product_used_by_one_sum_is_fused() {
        assert_eq!(
            contracted(&[(3, MUL, &[0, 1]), (4, ADD, &[3, 2])]),
            ["r4 = fma(r0, r1, r2)"]
        );
        assert_eq!(
            contracted(&[(3, MUL, &[0, 1]), (4, ADD, &[2, 3])]),
            ["r4 = fma(r0, r1, r2)"]
        );
        let minus = contracted(&[(3, MUL, &[0, 1]), (4, SUB, &[2, 3])]);
        assert_eq!(minus, ["r8 = neg(r0)", "r4 = fma(r8, r1, r2)"]);
        let minus = contracted(&[(3, MUL, &[0, 1]), (4, SUB, &[3, 2])]);
        assert_eq!(minus, ["r8 = neg(r2)", "r4 = fma(r0, r1, r8)"]);
    }

    /// What is assigned anew comes first: it is computed in its place.
    #[test]
    fn a_carried_register_is_the_first_factor() {
        let carried = contracted(&[(3, MUL, &[0, 1]), (1, ADD, &[3, 2])]);
        assert_eq!(carried, ["r1 = fma(r1, r0, r2)"]);
    }

    /// Of two products the one that waits for exp2 is fused.
    #[test]
    fn the_later_product_is_fused() {
        let exp2 = LoopOp::Math(Op::Exp2);
        for sum in [[4, 5], [5, 4]] {
            let body = [
                (3, exp2, &[0][..]),
                (4, MUL, &[3, 1]),
                (5, MUL, &[1, 2]),
                (6, ADD, &sum),
            ];
            assert_eq!(contracted(&body)[2], "r6 = fma(r3, r1, r5)");
        }
    }

    #[test]
    fn a_product_that_is_needed_stays() {
        let twice = [(3, MUL, &[0, 1][..]), (4, ADD, &[3, 2]), (5, ADD, &[3, 4])];
        assert_eq!(contracted(&twice).len(), 3);
        let square = [(3, MUL, &[0, 1][..]), (4, ADD, &[3, 3])];
        assert_eq!(contracted(&square).len(), 2);
    }

    #[test]
    fn a_product_does_not_move_past_its_factors() {
        let changed = [(3, MUL, &[0, 1][..]), (0, ADD, &[1, 2]), (4, ADD, &[3, 2])];
        assert!(contracted(&changed)[0].contains("mul"));
        let assigned_twice = [(3, MUL, &[0, 1][..]), (3, MUL, &[1, 1]), (4, ADD, &[3, 2])];
        assert_eq!(contracted(&assigned_twice).len(), 3);
    }

    #[test]
    fn a_product_outside_of_the_loop_stays() {
        let mut p = empty(Ix::Const(1));
        p.regs = vec![Ty::F32; 4];
        let (item, t) = (p.var("item"), p.var("t"));
        let product = Stmt::Set(Reg(2), Rhs::Op(MUL, vec![Reg(0), Reg(1)]));
        let sum = Stmt::Set(Reg(3), Rhs::Op(ADD, vec![Reg(3), Reg(2)]));
        let body = vec![product, for_(t, LoopKind::Serial, 0, 9, vec![sum])];
        p.body = vec![for_(item, LoopKind::Core, 0, 1, body)];
        assert_eq!(contract(p.clone()), p);
    }
}
