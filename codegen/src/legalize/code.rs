//! The writer of expansions: every method appends a statement and returns its register.

use selscan_dsl::Op;

use super::Supports;
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Proc, Reg, Rhs, Stmt};

/// Where an expansion is written.
pub(super) struct Code<'a> {
    pub proc: &'a mut Proc,
    out: &'a mut Vec<Stmt>,
    supports: &'a Supports,
}

/// A number in both precisions.
#[derive(Clone, Copy)]
pub(super) struct Both {
    pub f32: f64,
    pub f64: f64,
}

impl<'a> Code<'a> {
    pub(super) fn new(proc: &'a mut Proc, out: &'a mut Vec<Stmt>, supports: &'a Supports) -> Self {
        Code {
            proc,
            out,
            supports,
        }
    }
    pub(super) fn ty(&self, reg: Reg) -> Ty {
        self.proc.ty(reg)
    }
    pub(super) fn push(&mut self, stmt: Stmt) {
        self.out.push(stmt);
    }
    pub(super) fn set(&mut self, ty: Ty, rhs: Rhs) -> Reg {
        let reg = self.proc.reg(ty);
        self.out.push(Stmt::Set(reg, rhs));
        reg
    }
    /// Makes `result`, written last, the value of `target`.
    pub(super) fn name(&mut self, result: Reg, target: Reg) {
        match self.out.last_mut() {
            Some(Stmt::Set(last, _)) if *last == result => *last = target,
            _ => self
                .out
                .push(Stmt::Set(target, Rhs::Op(LoopOp::Copy, vec![result]))),
        }
    }
    pub(super) fn op(&mut self, ty: Ty, op: LoopOp, args: &[Reg]) -> Reg {
        self.set(ty, Rhs::Op(op, args.to_vec()))
    }
    fn math(&mut self, op: Op, args: &[Reg]) -> Reg {
        let ty = self.ty(args[0]);
        self.op(ty, LoopOp::Math(op), args)
    }

    /// A float constant of the type of `like`.
    pub(super) fn float(&mut self, like: Reg, x: f64) -> Reg {
        let ty = self.ty(like);
        self.set(ty, Rhs::Const(x))
    }
    /// A float constant by the precision of `like`.
    pub(super) fn either(&mut self, like: Reg, x: Both) -> Reg {
        let value = if self.ty(like) == Ty::F64 {
            x.f64
        } else {
            x.f32
        };
        self.float(like, value)
    }
    /// An integer constant of the width of `like`.
    pub(super) fn int(&mut self, like: Reg, bits: u64) -> Reg {
        let ty = self.ty(like).bits();
        self.set(ty, Rhs::Bits(bits))
    }

    pub(super) fn neg(&mut self, a: Reg) -> Reg {
        self.math(Op::Neg, &[a])
    }
    pub(super) fn abs(&mut self, a: Reg) -> Reg {
        self.math(Op::Abs, &[a])
    }
    pub(super) fn sqrt(&mut self, a: Reg) -> Reg {
        self.math(Op::Sqrt, &[a])
    }
    pub(super) fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.math(Op::Add, &[a, b])
    }
    pub(super) fn sub(&mut self, a: Reg, b: Reg) -> Reg {
        self.math(Op::Sub, &[a, b])
    }
    pub(super) fn mul(&mut self, a: Reg, b: Reg) -> Reg {
        self.math(Op::Mul, &[a, b])
    }
    pub(super) fn div(&mut self, a: Reg, b: Reg) -> Reg {
        self.math(Op::Div, &[a, b])
    }
    /// a·b + c, fused where the backend fuses.
    pub(super) fn fma(&mut self, a: Reg, b: Reg, c: Reg) -> Reg {
        let ty = self.ty(a);
        if self.supports.has(LoopOp::Fma, ty) {
            self.op(ty, LoopOp::Fma, &[a, b, c])
        } else {
            let product = self.mul(a, b);
            self.add(product, c)
        }
    }
    /// Whether the backend has an operation for the type of `like`.
    pub(super) fn has(&self, op: LoopOp, like: Reg) -> bool {
        self.supports.has(op, self.ty(like))
    }
    /// 1/x of a number whose reciprocal is normal or 0.
    pub(super) fn recip(&mut self, x: Reg) -> Reg {
        if self.has(LoopOp::Recip, x) {
            let ty = self.ty(x);
            return self.op(ty, LoopOp::Recip, &[x]);
        }
        let one = self.float(x, 1.0);
        self.div(one, x)
    }
    /// y/x for such an x.
    pub(super) fn over(&mut self, y: Reg, x: Reg) -> Reg {
        if self.has(LoopOp::Recip, x) {
            let inverse = self.recip(x);
            return self.mul(y, inverse);
        }
        self.div(y, x)
    }
    /// c₀ + x·(c₁ + x·(…)).
    pub(super) fn horner(&mut self, x: Reg, coefficients: &[f64]) -> Reg {
        let mut rest = coefficients.iter().rev();
        let mut sum = self.float(x, rest.next().copied().unwrap_or(0.0));
        for c in rest {
            let c = self.float(x, *c);
            sum = self.fma(sum, x, c);
        }
        sum
    }

    pub(super) fn compare(&mut self, op: Op, a: Reg, b: Reg) -> Reg {
        self.op(Ty::Bool, LoopOp::Math(op), &[a, b])
    }
    pub(super) fn select(&mut self, condition: Reg, yes: Reg, no: Reg) -> Reg {
        let ty = self.ty(yes);
        self.op(ty, LoopOp::Math(Op::Select), &[condition, yes, no])
    }
    /// The smaller of a bound and x; x if it is NaN. One instruction where a machine has min.
    pub(super) fn at_most(&mut self, bound: Reg, x: Reg) -> Reg {
        if self.has(LoopOp::Math(Op::Min), x) {
            return self.op(self.ty(x), LoopOp::Math(Op::Min), &[bound, x]);
        }
        let beyond = self.compare(Op::Lt, bound, x);
        self.select(beyond, bound, x)
    }
    /// The larger of a bound and x; x if it is NaN.
    pub(super) fn at_least(&mut self, bound: Reg, x: Reg) -> Reg {
        if self.has(LoopOp::Math(Op::Max), x) {
            return self.op(self.ty(x), LoopOp::Math(Op::Max), &[bound, x]);
        }
        let below = self.compare(Op::Lt, x, bound);
        self.select(below, bound, x)
    }

    /// The bits of a float as an integer, and back.
    pub(super) fn bits(&mut self, a: Reg) -> Reg {
        let ty = match self.ty(a) {
            Ty::F32 => Ty::I32,
            Ty::F64 => Ty::I64,
            Ty::I64 => Ty::F64,
            Ty::I32 | Ty::Bool => Ty::F32,
        };
        self.op(ty, LoopOp::Bitcast, &[a])
    }
    pub(super) fn iadd(&mut self, a: Reg, b: Reg) -> Reg {
        self.int_op(LoopOp::IAdd, &[a, b])
    }
    pub(super) fn isub(&mut self, a: Reg, b: Reg) -> Reg {
        self.int_op(LoopOp::ISub, &[a, b])
    }
    pub(super) fn and(&mut self, a: Reg, b: Reg) -> Reg {
        self.int_op(LoopOp::And, &[a, b])
    }
    pub(super) fn or(&mut self, a: Reg, b: Reg) -> Reg {
        self.int_op(LoopOp::Or, &[a, b])
    }
    pub(super) fn shl(&mut self, a: Reg, k: u8) -> Reg {
        self.int_op(LoopOp::Shl(k), &[a])
    }
    pub(super) fn shr(&mut self, a: Reg, k: u8) -> Reg {
        self.int_op(LoopOp::Shr(k), &[a])
    }
    /// ±1 with the sign bit of an integer.
    pub(super) fn or_one(&mut self, sign: Reg, like: Reg) -> Reg {
        let one = self.layout(like).one();
        let one = self.int(like, one);
        let bits = self.or(sign, one);
        self.bits(bits)
    }
    fn int_op(&mut self, op: LoopOp, args: &[Reg]) -> Reg {
        let ty = self.ty(args[0]);
        self.op(ty, op, args)
    }

    /// How a float of the type of `like` is laid out.
    pub(super) fn layout(&self, like: Reg) -> Layout {
        match self.ty(like) {
            Ty::F64 | Ty::I64 => Layout {
                mantissa: 52,
                bias: 1023,
            },
            Ty::F32 | Ty::I32 | Ty::Bool => Layout {
                mantissa: 23,
                bias: 127,
            },
        }
    }
}

/// How a float is laid out: sign, exponent + bias, mantissa bits.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub mantissa: u8,
    pub bias: i32,
}

impl Layout {
    /// 1.5·2^mantissa: what a number is added to so that its nearest integer stands in the lowest bits.
    pub(super) fn magic(self) -> f64 {
        1.5 * self.ulp_one()
    }
    /// 2^mantissa, whose neighbours are 1 apart.
    pub(super) fn ulp_one(self) -> f64 {
        f64::from(self.mantissa).exp2()
    }
    /// The bits of 1.
    pub(super) fn one(self) -> u64 {
        (self.bias as u64) << self.mantissa
    }
    /// The bit of the sign.
    pub(super) fn sign(self) -> u64 {
        if self.mantissa == 52 {
            1 << 63
        } else {
            1 << 31
        }
    }
}
