//! Exponentials by two units at once: of every eight powers of two in f32 that the machine has an operation for,
//! [`Proc::exp2`] are written out in products and sums, evenly through the text (Dao et al. 2026, FlashAttention-4, does so
//! for a part of softmax). In: a legal proc. Out: the same numbers within the expansion's error, and `exp2 = 0`.
//!
//! A multiprocessor of sm_90 has 16 results a cycle of its exponential unit and 128 of its FMA pipes; a power of two written
//! out is 14 instructions.

use selscan_dsl::Op;

use super::Supports;
use super::code::Code;
use super::exponential;
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Proc, Rhs, Stmt};

/// Of so many, [`Proc::exp2`] are written out.
pub(crate) const OF: u32 = 8;

pub(super) fn spread(mut proc: Proc, supports: &Supports) -> Proc {
    let share = std::mem::take(&mut proc.exp2);
    if share > 0 {
        let body = std::mem::take(&mut proc.body);
        proc.body = block(&mut proc, body, supports, share, &mut 0);
    }
    proc
}

/// `seen`: powers of two so far, times the share.
fn block(
    proc: &mut Proc,
    body: Vec<Stmt>,
    supports: &Supports,
    share: u32,
    seen: &mut u32,
) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(body.len());
    for stmt in body {
        match stmt {
            stmt @ (Stmt::For { .. } | Stmt::If { .. }) => {
                out.push(stmt.map_blocks(|body| block(proc, body, supports, share, seen)));
            }
            Stmt::Set(reg, Rhs::Op(LoopOp::Math(Op::Exp2), args)) if proc.ty(reg) == Ty::F32 => {
                let turn = *seen / OF;
                *seen += share;
                if *seen / OF == turn {
                    out.push(Stmt::Set(reg, Rhs::Op(LoopOp::Math(Op::Exp2), args)));
                } else {
                    let mut code = Code::new(proc, &mut out, supports);
                    let power = exponential::exp2(&mut code, args[0]);
                    code.name(power, reg);
                }
            }
            stmt => out.push(stmt),
        }
    }
    out
}
