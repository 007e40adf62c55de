//! Arithmetic on numbers that are real or complex, one register a part: what the scan of order=scanned composes.
//!
//! In: a [`Builder`] and registers. Out: registers, set in the innermost open loop.

use selscan_dsl::{Op, Parts};

use super::builder::Builder;
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Reg, Rhs};

/// A number: its real part, and the imaginary one where it is complex.
#[derive(Clone, Copy)]
pub(super) struct Num {
    pub re: Reg,
    pub im: Option<Reg>,
}

pub(super) fn value(b: &mut Builder<'_>, parts: Parts) -> Num {
    Num {
        re: b.value(parts.re),
        im: parts.im.map(|im| b.value(im)),
    }
}

/// The number where a condition holds, else `idle`.
pub(super) fn chosen(b: &mut Builder<'_>, condition: Reg, x: Num, idle: f64) -> Num {
    let mut select = |x: Reg, idle: f64| {
        let idle = b.set(b.ty(), Rhs::Const(idle));
        math(b, Op::Select, &[condition, x, idle])
    };
    Num {
        re: select(x.re, idle),
        im: x.im.map(|im| select(im, 0.0)),
    }
}

pub(super) fn math(b: &mut Builder<'_>, op: Op, args: &[Reg]) -> Reg {
    let ty = args.last().map_or(b.ty(), |&a| b.proc.ty(a));
    b.set(ty, Rhs::Op(LoopOp::Math(op), args.to_vec()))
}

pub(super) fn mul(b: &mut Builder<'_>, x: Num, y: Num) -> Num {
    let mut product = |p: Reg, q: Reg| math(b, Op::Mul, &[p, q]);
    match (x.im, y.im) {
        (None, None) => Num {
            re: product(x.re, y.re),
            im: None,
        },
        (Some(im), None) => Num {
            re: product(x.re, y.re),
            im: Some(product(im, y.re)),
        },
        (None, Some(im)) => Num {
            re: product(x.re, y.re),
            im: Some(product(x.re, im)),
        },
        (Some(p), Some(q)) => {
            let (rr, ii) = (product(x.re, y.re), product(p, q));
            let (ri, ir) = (product(x.re, q), product(p, y.re));
            Num {
                re: math(b, Op::Sub, &[rr, ii]),
                im: Some(math(b, Op::Add, &[ri, ir])),
            }
        }
    }
}

pub(super) fn add(b: &mut Builder<'_>, x: Num, y: Num) -> Num {
    let im = match (x.im, y.im) {
        (Some(p), Some(q)) => Some(math(b, Op::Add, &[p, q])),
        (p, q) => p.or(q),
    };
    Num {
        re: math(b, Op::Add, &[x.re, y.re]),
        im,
    }
}

/// a h + c; c alone where a sequence starts.
pub(super) fn step(b: &mut Builder<'_>, a: Num, h: Num, c: Num, resets: bool) -> Num {
    let kept = mul(b, a, h);
    let next = add(b, kept, c);
    if !resets {
        return next;
    }
    let zero = b.set(b.ty(), Rhs::Const(0.0));
    let mut is_zero = math_bool(b, a.re, zero);
    if let Some(im) = a.im {
        // Both are 0 where |re| + |im| is.
        let (re, im) = (math(b, Op::Abs, &[a.re]), math(b, Op::Abs, &[im]));
        let size = math(b, Op::Add, &[re, im]);
        is_zero = math_bool(b, size, zero);
    }
    let mut select = |c: Reg, next: Reg| math(b, Op::Select, &[is_zero, c, next]);
    Num {
        re: select(c.re, next.re),
        im: match (c.im, next.im) {
            (Some(c), Some(next)) => Some(select(c, next)),
            (_, next) => next,
        },
    }
}

fn math_bool(b: &mut Builder<'_>, x: Reg, zero: Reg) -> Reg {
    b.set(Ty::Bool, Rhs::Op(LoopOp::Math(Op::Eq), vec![x, zero]))
}

/// xⁿ for n > 0, by squaring.
pub(super) fn power(b: &mut Builder<'_>, x: Num, n: usize) -> Num {
    if n == 1 {
        return x;
    }
    let half = power(b, x, n / 2);
    let square = mul(b, half, half);
    if n % 2 == 1 {
        mul(b, square, x)
    } else {
        square
    }
}

/// Registers of its own with the value of `x`, complex where `like` is.
pub(super) fn variable(b: &mut Builder<'_>, x: Num, like: Num) -> Num {
    let re = b.copied(x.re);
    let im = like.im.map(|_| match x.im {
        Some(im) => b.copied(im),
        None => b.set(b.ty(), Rhs::Const(0.0)),
    });
    Num { re, im }
}

pub(super) fn assign(b: &mut Builder<'_>, to: Num, from: Num) {
    b.assign(to.re, from.re);
    if let (Some(to), Some(from)) = (to.im, from.im) {
        b.assign(to, from);
    }
}

pub(super) fn shuffled(b: &mut Builder<'_>, op: LoopOp, x: Num) -> Num {
    let mut part = |x: Reg| b.set(b.ty(), Rhs::Op(op, vec![x]));
    Num {
        re: part(x.re),
        im: x.im.map(&mut part),
    }
}
