//! Legalisation: a proc in the operations that a backend has.
//!
//! In: a proc and what the backend [`Supports`]. Out: the proc with every other operation written out in basic
//! arithmetic, comparisons and integer operations, so that no code calls a library and all of it vectorises.
//! Each expansion's file states its method and its error; legalising twice changes nothing.

mod code;
mod elementary;
mod exponential;
mod half;
mod logarithm;
mod probability;
mod spread;
mod trigonometric;

use std::collections::BTreeSet;

use selscan_dsl::Op;

use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{Buf, LoopOp, Proc, Reg, Rhs, Stmt};
use code::Code;
pub(crate) use spread::OF as EXP2_OF;

/// What a backend has beside the basic operations: neg, add, sub, mul, div, abs, sqrt, comparisons, select, copy,
/// bitcast, convert, and integer addition, subtraction, and, or, shifts and comparison.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Supports {
    ops: BTreeSet<LoopOp>,
    /// Operations on f32 alone.
    single: BTreeSet<LoopOp>,
    /// Whether a load or store converts between the element's type and the register's.
    pub conversions: bool,
}

impl Supports {
    /// The basic operations and nothing else.
    #[must_use]
    pub fn base() -> Supports {
        Supports::default()
    }
    /// Adds an operation.
    pub fn add(&mut self, op: LoopOp) {
        self.ops.insert(op);
    }
    /// Adds an operation that is there for f32 alone.
    pub fn add_single(&mut self, op: LoopOp) {
        self.single.insert(op);
    }
    /// Whether the backend has it for operands of that type.
    #[must_use]
    pub fn has(&self, op: LoopOp, ty: Ty) -> bool {
        is_basic(op) || self.ops.contains(&op) || (ty == Ty::F32 && self.single.contains(&op))
    }
}

fn is_basic(op: LoopOp) -> bool {
    match op {
        LoopOp::Math(op) => {
            op.is_comparison()
                || matches!(
                    op,
                    Op::Neg
                        | Op::Add
                        | Op::Sub
                        | Op::Mul
                        | Op::Div
                        | Op::Abs
                        | Op::Sqrt
                        | Op::Select
                )
        }
        LoopOp::Copy
        | LoopOp::Bitcast
        | LoopOp::Convert
        | LoopOp::IAdd
        | LoopOp::ISub
        | LoopOp::And
        | LoopOp::Or
        | LoopOp::Shl(_)
        | LoopOp::Shr(_)
        | LoopOp::Sar(_)
        | LoopOp::ILt => true,
        LoopOp::ShuffleUp(_)
        | LoopOp::ShuffleXor(_)
        | LoopOp::Broadcast(_)
        | LoopOp::FmaUp(_)
        | LoopOp::MulUp(_) => true,
        LoopOp::Fma | LoopOp::Round | LoopOp::FromInt | LoopOp::Recip => false,
    }
}

/// The proc in operations that `supports` has.
#[must_use]
pub fn legalize(mut proc: Proc, supports: &Supports) -> Proc {
    let body = std::mem::take(&mut proc.body);
    proc.body = block(&mut proc, body, supports);
    spread::spread(proc, supports)
}

fn block(proc: &mut Proc, body: Vec<Stmt>, supports: &Supports) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(body.len());
    for stmt in body {
        match stmt {
            stmt @ (Stmt::For { .. } | Stmt::If { .. }) => {
                out.push(stmt.map_blocks(|body| block(proc, body, supports)));
            }
            Stmt::Set(reg, Rhs::Op(op, args)) if !supports.has(op, operand(proc, &args)) => {
                let mut code = Code::new(proc, &mut out, supports);
                match expand(&mut code, op, &args) {
                    Some(result) => code.name(result, reg),
                    None => out.push(Stmt::Set(reg, Rhs::Op(op, args))),
                }
            }
            Stmt::Set(reg, Rhs::Load(buf, ix)) if converts(proc, buf, reg, supports) => {
                let mut code = Code::new(proc, &mut out, supports);
                let value = half::load(&mut code, buf, ix, reg);
                code.name(value, reg);
            }
            Stmt::Store(buf, ix, reg) if converts(proc, buf, reg, supports) => {
                half::store(&mut Code::new(proc, &mut out, supports), buf, ix, reg);
            }
            stmt @ (Stmt::Let(..)
            | Stmt::Set(..)
            | Stmt::Store(..)
            | Stmt::StoreBits(..)
            | Stmt::LoadRow(..)
            | Stmt::StoreRow(..)
            | Stmt::Fetch(..)
            | Stmt::Prefetch(..)
            | Stmt::Copy(..)
            | Stmt::Sync
            | Stmt::Arrive
            | Stmt::Wait
            | Stmt::Meet
            | Stmt::Take(..)) => out.push(stmt),
        }
    }
    out
}

/// The type of an operation's operands.
fn operand(proc: &Proc, args: &[Reg]) -> Ty {
    args.first().map_or(Ty::F32, |&a| proc.ty(a))
}

/// The operation in basic ones; `None` if it has no expansion (the backend must have it, or will refuse it).
fn expand(code: &mut Code, op: LoopOp, x: &[Reg]) -> Option<Reg> {
    let math = match op {
        LoopOp::Math(math) => math,
        LoopOp::Fma => return Some(code.fma(x[0], x[1], x[2])),
        LoopOp::Round => return Some(elementary::round(code, x[0])),
        LoopOp::Recip => return Some(code.recip(x[0])),
        LoopOp::FromInt => return None,
        _ => return None,
    };
    Some(match math {
        Op::Min => elementary::min(code, x[0], x[1]),
        Op::Max => elementary::max(code, x[0], x[1]),
        Op::Floor => elementary::floor(code, x[0]),
        Op::Rsqrt => elementary::rsqrt(code, x[0]),
        Op::Exp => exponential::exp(code, x[0]),
        Op::Exp2 => exponential::exp2(code, x[0]),
        Op::Expm1 => exponential::expm1(code, x[0]),
        Op::Phi1 => exponential::phi1(code, x[0]),
        Op::Tanh => exponential::tanh(code, x[0]),
        Op::Sigmoid => exponential::sigmoid(code, x[0]),
        Op::Log => logarithm::log(code, x[0]),
        Op::Log2 => logarithm::log2(code, x[0]),
        Op::Softplus => logarithm::softplus(code, x[0]),
        Op::Sin => trigonometric::sin(code, x[0]),
        Op::Cos => trigonometric::cos(code, x[0]),
        Op::Erf => probability::erf(code, x[0]),
        Op::Neg | Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Abs | Op::Sqrt | Op::Select => {
            return None;
        }
        Op::Lt | Op::Le | Op::Gt | Op::Ge | Op::Eq | Op::Ne => return None,
        Op::Re | Op::Im | Op::Conj | Op::Complex => return None,
    })
}

/// Whether an element of `buf` must be converted to or from `reg` by operations.
fn converts(proc: &Proc, buf: Buf, reg: Reg, supports: &Supports) -> bool {
    let native = matches!(
        (proc.buffer(buf).dtype, proc.ty(reg)),
        (Dtype::F32, Ty::F32) | (Dtype::F64, Ty::F64)
    );
    !native && !supports.conversions
}

#[cfg(test)]
mod tests;
