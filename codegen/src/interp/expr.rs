//! A proc made ready to run: extents put in, indices as linear forms, operand types looked up.

use selscan_dsl::{AxisId, Op};

use super::InterpError;
use crate::dtype::{Dtype, Ty};
use crate::lanes::{Lanes, in_lockstep};
use crate::loop_ir::{Buf, Ix, LoopKind, LoopOp, Proc, Reg, Rhs, Stmt, Var};

/// An index whose extents are numbers.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Expr {
    /// constant + Σ coefficient·variable.
    Linear(i64, Vec<(usize, i64)>),
    /// Sum of two.
    Add(Box<Expr>, Box<Expr>, i64),
    Mul(Box<Expr>, Box<Expr>),
    Div(Box<Expr>, Box<Expr>),
    Min(Box<Expr>, Box<Expr>),
}

impl Expr {
    /// Its value; `None` on overflow or division by 0.
    pub(super) fn eval(&self, vars: &[i64]) -> Option<i64> {
        match self {
            Expr::Linear(constant, terms) => {
                let mut sum = *constant;
                for &(var, k) in terms {
                    sum = sum.checked_add(vars[var].checked_mul(k)?)?;
                }
                Some(sum)
            }
            Expr::Add(a, b, k) => a.eval(vars)?.checked_add(b.eval(vars)?.checked_mul(*k)?),
            Expr::Mul(a, b) => a.eval(vars)?.checked_mul(b.eval(vars)?),
            Expr::Div(a, b) => a.eval(vars)?.checked_div(b.eval(vars)?),
            Expr::Min(a, b) => Some(a.eval(vars)?.min(b.eval(vars)?)),
        }
    }
}

/// A statement ready to run; registers and buffers by index.
#[derive(Clone, Debug)]
pub(super) enum Code {
    Loop {
        var: usize,
        lo: Expr,
        hi: Expr,
        step: i64,
        body: Vec<Code>,
        kind: Kind,
    },
    Let(usize, Expr),
    Const(usize, u64),
    Index(usize, Expr, Ty),
    Load {
        reg: usize,
        ty: Ty,
        buf: usize,
        at: Expr,
    },
    LoadBits {
        reg: usize,
        buf: usize,
        at: Expr,
    },
    Op {
        reg: usize,
        to: Ty,
        op: LoopOp,
        from: Ty,
        args: [usize; 3],
        math: fn(&[f64]) -> f64,
        count: usize,
    },
    Store {
        buf: usize,
        at: Expr,
        reg: usize,
        ty: Ty,
        dtype: Dtype,
    },
    StoreBits {
        buf: usize,
        at: Expr,
        reg: usize,
    },
    Copy {
        to: usize,
        at: Expr,
        from: usize,
        ix: Expr,
    },
    If {
        lhs: Expr,
        rhs: Expr,
        then: Vec<Code>,
        els: Vec<Code>,
    },
    /// A row of that many elements of a buffer begins there.
    Row(usize, Expr, i64),
    /// Of the lanes in lockstep, once for all of them.
    Meet(Meeting),
}

/// What orders the accesses of lanes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meeting {
    Both,
    Arrive,
    Wait,
}

/// What a turn of a loop starts from.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Fresh scratch memory.
    Core,
    /// These registers as they were before the loop.
    Lane(Vec<usize>),
    /// All turns together, statement by statement.
    Lockstep,
    /// What the turn before left.
    Serial,
}

/// The value of a constant in a register of that type.
pub(super) fn encode(ty: Ty, value: f64) -> u64 {
    match ty {
        Ty::F32 => u64::from((value as f32).to_bits()),
        Ty::F64 => value.to_bits(),
        Ty::I32 => u64::from(value as i32 as u32),
        Ty::I64 => value as i64 as u64,
        Ty::Bool => u64::from(value != 0.0),
    }
}

pub(super) struct Compiler<'a> {
    pub proc: &'a Proc,
    pub extents: &'a [i64],
}

impl Compiler<'_> {
    fn overflow(&self, ix: &Ix) -> InterpError {
        InterpError::Overflow {
            proc: self.proc.name.clone(),
            what: self.proc.show(ix),
        }
    }

    /// A length in elements, small enough for a buffer.
    pub(super) fn len(&self, ix: &Ix, of: &str) -> Result<usize, InterpError> {
        let value = self.ix(ix)?.eval(&[]);
        value
            .and_then(|v| {
                usize::try_from(v)
                    .ok()
                    .filter(|v| *v <= isize::MAX as usize / 8)
            })
            .ok_or_else(|| InterpError::Overflow {
                proc: self.proc.name.clone(),
                what: format!("the length of {of}, {},", self.proc.show(ix)),
            })
    }

    fn extent(&self, axis: AxisId) -> Result<i64, InterpError> {
        self.extents
            .get(axis.0 as usize)
            .copied()
            .ok_or_else(|| InterpError::Extent {
                proc: self.proc.name.clone(),
                axis: axis.0,
                given: self.extents.len(),
            })
    }

    pub(super) fn ix(&self, ix: &Ix) -> Result<Expr, InterpError> {
        Ok(match ix {
            Ix::Const(k) => Expr::Linear(*k, Vec::new()),
            Ix::Var(v) => Expr::Linear(0, vec![(v.0 as usize, 1)]),
            Ix::Extent(axis) => Expr::Linear(self.extent(*axis)?, Vec::new()),
            Ix::Add(a, b) => self.sum(ix, a, b, 1)?,
            Ix::Sub(a, b) => self.sum(ix, a, b, -1)?,
            Ix::Mul(a, b) => match (self.ix(a)?, self.ix(b)?) {
                (Expr::Linear(k, none), Expr::Linear(c, terms)) if none.is_empty() => {
                    scaled(c, terms, k).ok_or_else(|| self.overflow(ix))?
                }
                (Expr::Linear(c, terms), Expr::Linear(k, none)) if none.is_empty() => {
                    scaled(c, terms, k).ok_or_else(|| self.overflow(ix))?
                }
                (a, b) => Expr::Mul(Box::new(a), Box::new(b)),
            },
            Ix::Div(a, b) => Expr::Div(Box::new(self.ix(a)?), Box::new(self.ix(b)?)),
            Ix::Min(a, b) => Expr::Min(Box::new(self.ix(a)?), Box::new(self.ix(b)?)),
        })
    }

    fn sum(&self, whole: &Ix, a: &Ix, b: &Ix, k: i64) -> Result<Expr, InterpError> {
        Ok(match (self.ix(a)?, self.ix(b)?) {
            (Expr::Linear(c, mut terms), Expr::Linear(d, more)) => {
                let Some(Expr::Linear(d, more)) = scaled(d, more, k) else {
                    return Err(self.overflow(whole));
                };
                terms.extend(more);
                Expr::Linear(c.checked_add(d).ok_or_else(|| self.overflow(whole))?, terms)
            }
            (a, b) => Expr::Add(Box::new(a), Box::new(b), k),
        })
    }

    /// The check that a row begins where it may.
    fn row(&self, buf: Buf, ix: &Ix, count: usize) -> Result<Code, InterpError> {
        Ok(Code::Row(buf.0 as usize, self.ix(ix)?, count as i64))
    }

    /// Where the machine keeps element `k` of a row: as an f64, behind the registers.
    fn place(&self, row: u32, k: u32) -> usize {
        self.proc.regs.len() + 8 * row as usize + k as usize
    }

    pub(super) fn stmts(&self, stmts: &[Stmt]) -> Result<Vec<Code>, InterpError> {
        let mut out = Vec::with_capacity(stmts.len());
        for stmt in stmts {
            match stmt {
                Stmt::LoadRow(regs, buf, ix) => {
                    out.push(self.row(*buf, ix, regs.len())?);
                    for (k, &reg) in regs.iter().enumerate() {
                        let at = ix.clone() + Ix::Const(k as i64);
                        out.push(self.stmt(&Stmt::Set(reg, Rhs::Load(*buf, at)))?);
                    }
                }
                Stmt::Fetch(row, buf, ix) => {
                    let (_, count) = self.proc.rows[row.0 as usize];
                    out.push(self.row(*buf, ix, count as usize)?);
                    for k in 0..count {
                        out.push(Code::Load {
                            reg: self.place(row.0, k),
                            ty: Ty::F64,
                            buf: buf.0 as usize,
                            at: self.ix(&(ix.clone() + Ix::Const(i64::from(k))))?,
                        });
                    }
                }
                Stmt::Take(regs, row) => {
                    for (k, &reg) in regs.iter().enumerate() {
                        let mut args = [0; 3];
                        args[0] = self.place(row.0, k as u32);
                        let to = self.proc.ty(reg);
                        out.push(Code::Op {
                            reg: reg.0 as usize,
                            to,
                            op: if to == Ty::F64 {
                                LoopOp::Copy
                            } else {
                                LoopOp::Convert
                            },
                            from: Ty::F64,
                            args,
                            math: Op::Neg.info().real,
                            count: 1,
                        });
                    }
                }
                Stmt::Prefetch(..) => {}
                Stmt::Sync | Stmt::Meet => out.push(Code::Meet(Meeting::Both)),
                Stmt::Arrive => out.push(Code::Meet(Meeting::Arrive)),
                Stmt::Wait => out.push(Code::Meet(Meeting::Wait)),
                Stmt::Copy(to, at, from, ix, count) => {
                    for k in 0..i64::from(*count) {
                        out.push(Code::Copy {
                            to: to.0 as usize,
                            at: self.ix(&(at.clone() + Ix::Const(k)))?,
                            from: from.0 as usize,
                            ix: self.ix(&(ix.clone() + Ix::Const(k)))?,
                        });
                    }
                }
                Stmt::StoreRow(buf, ix, regs) => {
                    out.push(self.row(*buf, ix, regs.len())?);
                    for (k, &reg) in regs.iter().enumerate() {
                        let at = ix.clone() + Ix::Const(k as i64);
                        out.push(self.stmt(&Stmt::Store(*buf, at, reg))?);
                    }
                }
                stmt => out.push(self.stmt(stmt)?),
            }
        }
        Ok(out)
    }

    fn stmt(&self, stmt: &Stmt) -> Result<Code, InterpError> {
        Ok(match stmt {
            Stmt::For {
                var,
                kind,
                lo,
                hi,
                step,
                body,
            } => Code::Loop {
                var: var.0 as usize,
                lo: self.ix(lo)?,
                hi: self.ix(hi)?,
                step: *step,
                body: self.stmts(body)?,
                kind: kind_of(*kind, *var, body),
            },
            Stmt::Let(var, ix) => Code::Let(var.0 as usize, self.ix(ix)?),
            Stmt::Set(reg, rhs) => self.set(*reg, rhs)?,
            Stmt::Store(buf, ix, reg) => Code::Store {
                buf: buf.0 as usize,
                at: self.ix(ix)?,
                reg: reg.0 as usize,
                ty: self.proc.ty(*reg),
                dtype: self.proc.buffer(*buf).dtype,
            },
            Stmt::StoreBits(buf, ix, reg) => Code::StoreBits {
                buf: buf.0 as usize,
                at: self.ix(ix)?,
                reg: reg.0 as usize,
            },
            // Rows are taken apart in `stmts`; one of none is nothing.
            Stmt::LoadRow(..)
            | Stmt::StoreRow(..)
            | Stmt::Fetch(..)
            | Stmt::Take(..)
            | Stmt::Prefetch(..)
            | Stmt::Copy(..)
            | Stmt::Sync
            | Stmt::Arrive
            | Stmt::Wait
            | Stmt::Meet => Code::If {
                lhs: Expr::Linear(0, vec![]),
                rhs: Expr::Linear(0, vec![]),
                then: vec![],
                els: vec![],
            },
            Stmt::If {
                lhs,
                rhs,
                then,
                els,
            } => Code::If {
                lhs: self.ix(lhs)?,
                rhs: self.ix(rhs)?,
                then: self.stmts(then)?,
                els: self.stmts(els)?,
            },
        })
    }

    fn set(&self, to: Reg, rhs: &Rhs) -> Result<Code, InterpError> {
        let (reg, ty) = (to.0 as usize, self.proc.ty(to));
        Ok(match rhs {
            Rhs::Const(x) => Code::Const(reg, encode(ty, *x)),
            Rhs::Bits(bits) if ty == Ty::I32 => Code::Const(reg, bits & 0xffff_ffff),
            Rhs::Bits(bits) => Code::Const(reg, *bits),
            Rhs::Index(ix) => Code::Index(reg, self.ix(ix)?, ty),
            Rhs::Load(buf, ix) => Code::Load {
                reg,
                ty,
                buf: buf.0 as usize,
                at: self.ix(ix)?,
            },
            Rhs::LoadBits(buf, ix) => Code::LoadBits {
                reg,
                buf: buf.0 as usize,
                at: self.ix(ix)?,
            },
            Rhs::Op(op, operands) => {
                let mut args = [0; 3];
                for (slot, arg) in args.iter_mut().zip(operands) {
                    *slot = arg.0 as usize;
                }
                let math = match op {
                    LoopOp::Math(math) => math.info().real,
                    _ => Op::Neg.info().real,
                };
                let from = operands.first().map_or(ty, |a| self.proc.ty(*a));
                Code::Op {
                    reg,
                    to: ty,
                    op: *op,
                    from,
                    args,
                    math,
                    count: operands.len(),
                }
            }
        })
    }
}

fn scaled(constant: i64, terms: Vec<(usize, i64)>, k: i64) -> Option<Expr> {
    let terms = terms.into_iter().map(|(v, c)| Some((v, c.checked_mul(k)?)));
    Some(Expr::Linear(
        constant.checked_mul(k)?,
        terms.collect::<Option<_>>()?,
    ))
}

fn kind_of(kind: LoopKind, var: Var, body: &[Stmt]) -> Kind {
    match kind {
        LoopKind::Core => Kind::Core,
        LoopKind::Serial | LoopKind::Team => Kind::Serial,
        LoopKind::Lane(_) if in_lockstep(var, body) => Kind::Lockstep,
        LoopKind::Lane(width) => Kind::Lane(
            Lanes::of(var, width, body)
                .assigned
                .iter()
                .map(|r| r.0 as usize)
                .collect(),
        ),
    }
}
