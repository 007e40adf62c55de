//! The grammar of the loop IR: what a [`Proc`] must be beside what its types say.
//!
//! In: a proc. Out: nothing, or the first thing wrong with it. A proc that passes can be interpreted, legalised and
//! emitted; what is left to go wrong is an index that leaves its buffer.

mod fault;
mod meeting;
mod ops;

use std::collections::BTreeSet;

use crate::dtype::{Dtype, Ty};
use crate::lanes::{Lanes, in_lockstep};
use crate::loop_ir::{Buf, Ix, LoopKind, Proc, Reg, Rhs, Role, Row, Stmt, Var};
use crate::polynomial::Polynomial;
use crate::regs::Regs;

pub use fault::{Fault, VerifyError};

/// Whether a proc is in the grammar.
///
/// # Errors
/// The first [`Fault`] in program order.
pub fn verify(proc: &Proc) -> Result<(), VerifyError> {
    let mut verifier = Verifier {
        proc,
        scope: Vec::new(),
        lane: None,
        apart: false,
        lockstep: false,
        set: Regs::default(),
        rows: BTreeSet::new(),
    };
    let checked = verifier.proc().and_then(|()| meeting::check(proc));
    checked.map_err(|fault| VerifyError {
        proc: proc.name.clone(),
        fault,
    })
}

struct Verifier<'a> {
    proc: &'a Proc,
    scope: Vec<Var>,
    lane: Option<(Var, Lanes)>,
    /// Whether the present statement may run in a part of the lanes.
    apart: bool,
    /// Whether the lanes of the loop are in lockstep.
    lockstep: bool,
    /// Registers that are assigned on every path to here.
    set: Regs,
    /// Rows that were fetched somewhere before here.
    rows: BTreeSet<Row>,
}

impl Verifier<'_> {
    fn proc(&mut self) -> Result<(), Fault> {
        for buffer in &self.proc.buffers {
            self.known(&buffer.len, &format!("the length of {}", buffer.name))?;
        }
        self.known(&self.proc.items, "the number of items")?;
        let [
            Stmt::For {
                var,
                kind: LoopKind::Core,
                lo,
                hi,
                step,
                body,
            },
        ] = &self.proc.body[..]
        else {
            return Err(Fault::NotOneCore);
        };
        if *lo != Ix::Const(0) || *hi != self.proc.items || *step != 1 {
            let (lo, hi) = (self.proc.show(lo), self.proc.show(hi));
            return Err(Fault::CoreBounds(format!("{lo}..{hi} by {step}")));
        }
        self.enter(*var)?;
        self.stmts(body)
    }

    /// An expression of extents alone.
    fn known(&self, ix: &Ix, what: &str) -> Result<(), Fault> {
        match self.ix(ix) {
            Err(Fault::Scope(_)) => Err(Fault::NotConstant {
                what: what.to_owned(),
                text: self.proc.show(ix),
            }),
            result => result,
        }
    }

    fn name(&self, var: Var) -> String {
        self.proc
            .vars
            .get(var.0 as usize)
            .cloned()
            .unwrap_or_default()
    }

    fn enter(&mut self, var: Var) -> Result<(), Fault> {
        if var.0 as usize >= self.proc.vars.len() {
            return Err(Fault::Undeclared {
                what: "variable",
                index: var.0,
            });
        }
        if self.scope.contains(&var) {
            return Err(Fault::Shadow(self.name(var)));
        }
        self.scope.push(var);
        Ok(())
    }

    fn ix(&self, ix: &Ix) -> Result<(), Fault> {
        match ix {
            Ix::Const(_) => Ok(()),
            Ix::Var(v) if v.0 as usize >= self.proc.vars.len() => Err(Fault::Undeclared {
                what: "variable",
                index: v.0,
            }),
            Ix::Var(v) if !self.scope.contains(v) => Err(Fault::Scope(self.name(*v))),
            Ix::Var(_) => Ok(()),
            Ix::Extent(a) => match self.proc.extents.get(a.0 as usize) {
                Some(Some(_)) => Ok(()),
                _ => Err(Fault::Extent(a.0)),
            },
            Ix::Div(_, d) if matches!(**d, Ix::Const(k) if k < 1) => {
                Err(Fault::Divisor(self.proc.show(ix)))
            }
            Ix::Add(a, b) | Ix::Sub(a, b) | Ix::Mul(a, b) | Ix::Div(a, b) | Ix::Min(a, b) => {
                self.ix(a)?;
                self.ix(b)
            }
        }
    }

    /// An expression that must not depend on the lane.
    fn uniform(&self, ix: &Ix, what: &'static str) -> Result<(), Fault> {
        self.ix(ix)?;
        match &self.lane {
            Some((var, _)) if ix.mentions(*var) => Err(Fault::LaneDependent {
                what,
                var: self.name(*var),
            }),
            _ => Ok(()),
        }
    }

    fn stmts(&mut self, stmts: &[Stmt]) -> Result<(), Fault> {
        let scope = self.scope.len();
        stmts.iter().try_for_each(|s| self.stmt(s))?;
        self.scope.truncate(scope);
        Ok(())
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), Fault> {
        match stmt {
            Stmt::For {
                var,
                kind,
                lo,
                hi,
                step,
                body,
            } => {
                self.uniform(lo, "a loop's bounds")?;
                self.uniform(hi, "a loop's bounds")?;
                if *step <= 0 {
                    return Err(Fault::Step {
                        var: self.name(*var),
                        step: *step,
                    });
                }
                self.enter(*var)?;
                match kind {
                    LoopKind::Core => return Err(Fault::InnerCore(self.name(*var))),
                    LoopKind::Serial | LoopKind::Team => {
                        let mut before = self.set.clone();
                        self.stmts(body)?;
                        // Lane loops take registers away: a turn has only what the turn before left.
                        while !before.is_subset(&self.set) {
                            before.keep(&self.set);
                            self.set = before.clone();
                            self.stmts(body)?;
                        }
                        // A loop that surely has a turn assigns what its body assigns.
                        if !matches!((lo, hi), (Ix::Const(a), Ix::Const(b)) if a < b) {
                            self.set = before;
                        }
                    }
                    LoopKind::Lane(width) => {
                        self.lane_loop(*var, *width, (lo, hi, *step), body)?;
                    }
                }
                self.scope.pop();
                Ok(())
            }
            Stmt::Let(var, ix) => {
                self.uniform(ix, "an index variable")?;
                self.enter(*var)
            }
            Stmt::Set(reg, rhs) => {
                self.rhs(*reg, rhs)?;
                self.set.insert(*reg);
                Ok(())
            }
            Stmt::Store(buf, ix, reg) => {
                self.store(*buf, ix, *reg)?;
                self.wants(*reg, Ty::is_float, "f32 or f64", || {
                    format!("store to {}", self.proc.buffer(*buf).name)
                })
            }
            Stmt::StoreBits(buf, ix, reg) => {
                self.store(*buf, ix, *reg)?;
                self.half(*buf)?;
                self.wants(
                    *reg,
                    |t| t == Ty::I32,
                    "i32",
                    || format!("store of bits to {}", self.proc.buffer(*buf).name),
                )
            }
            Stmt::LoadRow(regs, buf, ix) => {
                self.row(regs, ix, *buf)?;
                for &reg in regs {
                    self.rhs(reg, &Rhs::Load(*buf, ix.clone()))?;
                    self.set.insert(reg);
                }
                Ok(())
            }
            Stmt::Fetch(row, buf, ix) => {
                self.buffer(*buf)?;
                self.ix(ix)?;
                let (dtype, count) = self.fetched(*row)?;
                let decl = self.proc.buffer(*buf);
                let fits = matches!(count, 1 | 2 | 4 | 8) && count as usize * dtype.bytes() <= 16;
                if !fits || dtype != decl.dtype {
                    return Err(Fault::Row {
                        buffer: decl.name.clone(),
                        count: count as usize,
                    });
                }
                self.rows.insert(*row);
                Ok(())
            }
            Stmt::Copy(to, at, from, ix, count) => {
                self.buffer(*to)?;
                self.buffer(*from)?;
                self.ix(at)?;
                self.ix(ix)?;
                let (to, from) = (self.proc.buffer(*to), self.proc.buffer(*from));
                let fits = matches!(count, 1 | 2 | 4 | 8)
                    && *count as usize * to.dtype.bytes() <= 16
                    && to.dtype == from.dtype
                    && to.role == Role::Shared;
                if fits {
                    return Ok(());
                }
                Err(Fault::Row {
                    buffer: to.name.clone(),
                    count: *count as usize,
                })
            }
            Stmt::Sync | Stmt::Arrive | Stmt::Wait | Stmt::Meet => Ok(()),
            Stmt::Prefetch(buf, ix) => {
                self.buffer(*buf)?;
                self.ix(ix)
            }
            Stmt::Take(regs, row) => {
                let (_, count) = self.fetched(*row)?;
                if !self.rows.contains(row) || count as usize != regs.len() {
                    return Err(Fault::NotFetched(row.0));
                }
                for &reg in regs {
                    self.wants(reg, Ty::is_float, "f32 or f64", || {
                        "what was fetched".into()
                    })?;
                    self.set.insert(reg);
                }
                Ok(())
            }
            Stmt::StoreRow(buf, ix, regs) => {
                self.row(regs, ix, *buf)?;
                regs.iter()
                    .try_for_each(|&reg| self.stmt(&Stmt::Store(*buf, ix.clone(), reg)))
            }
            Stmt::If {
                lhs,
                rhs,
                then,
                els,
            } => {
                self.ix(lhs)?;
                self.ix(rhs)?;
                let differs = |(var, _): &(Var, Lanes)| lhs.mentions(*var) || rhs.mentions(*var);
                let differs = self.lane.as_ref().is_some_and(differs);
                if let Some((var, _)) = &self.lane
                    && differs
                    && (!straight(then) || !straight(els))
                {
                    let what = "a condition over shuffles or loops";
                    return Err(Fault::LaneDependent {
                        what,
                        var: self.name(*var),
                    });
                }
                let before = self.set.clone();
                let apart = self.apart;
                self.apart |= differs;
                self.stmts(then)?;
                let after = std::mem::replace(&mut self.set, before);
                self.stmts(els)?;
                self.apart = apart;
                self.set.keep(&after);
                Ok(())
            }
        }
    }

    fn lane_loop(
        &mut self,
        var: Var,
        width: u32,
        (lo, hi, step): (&Ix, &Ix, i64),
        body: &[Stmt],
    ) -> Result<(), Fault> {
        if self.lane.is_some() {
            return Err(Fault::NestedLane(self.name(var)));
        }
        if width == 0 {
            return Err(Fault::NoLanes(self.name(var)));
        }
        let apart = Polynomial::of(&(hi.clone() - lo.clone())).and_then(|p| p.constant());
        if apart != Some(i64::from(width)) || step != 1 {
            return Err(Fault::LaneWidth {
                var: self.name(var),
                width,
                lo: self.proc.show(lo),
                hi: self.proc.show(hi),
                step,
            });
        }
        let lanes = Lanes::of(var, width, body);
        self.lane = Some((var, lanes));
        self.lockstep = in_lockstep(var, body);
        self.stmts(body)?;
        // Each turn has its own copies: none of them is left.
        if let Some((_, lanes)) = self.lane.take() {
            self.set.remove_all(&lanes.assigned);
        }
        Ok(())
    }

    fn fetched(&self, row: Row) -> Result<(Dtype, u32), Fault> {
        let found = self.proc.rows.get(row.0 as usize).copied();
        found.ok_or(Fault::Undeclared {
            what: "row",
            index: row.0,
        })
    }

    /// A row is 2, 4 or 8 neighbours that begin at a multiple of their number, at most 16 bytes. Items' parts of a block's
    /// memory lie one after another, and each begins at a multiple of its length.
    fn row(&self, regs: &[Reg], ix: &Ix, buf: Buf) -> Result<(), Fault> {
        self.buffer(buf)?;
        let decl = self.proc.buffer(buf);
        let fits = matches!(regs.len(), 2 | 4 | 8) && regs.len() * decl.dtype.bytes() <= 16;
        let whole = match (decl.role, &decl.len) {
            (Role::Exchange, Ix::Const(len)) => len % regs.len() as i64 == 0,
            _ => true,
        };
        if fits && whole {
            return self.ix(ix);
        }
        Err(Fault::Row {
            buffer: decl.name.clone(),
            count: regs.len(),
        })
    }

    fn buffer(&self, buf: Buf) -> Result<(), Fault> {
        match self.proc.buffers.get(buf.0 as usize) {
            Some(_) => Ok(()),
            None => Err(Fault::Undeclared {
                what: "buffer",
                index: buf.0,
            }),
        }
    }

    fn store(&self, buf: Buf, ix: &Ix, reg: Reg) -> Result<(), Fault> {
        self.buffer(buf)?;
        self.ix(ix)?;
        self.read(reg)?;
        let decl = self.proc.buffer(buf);
        if matches!(decl.role, Role::Input(_) | Role::Initial(_)) {
            return Err(Fault::ReadOnly(decl.name.clone()));
        }
        // In lockstep each lane has scratch memory of its own.
        let own = self.lockstep && decl.role == Role::Scratch;
        match &self.lane {
            Some((var, lanes))
                if !own && !self.apart && !ix.mentions(*var) && lanes.varying.contains(reg) =>
            {
                let what = "a value stored to one element by all lanes";
                Err(Fault::LaneDependent {
                    what,
                    var: self.name(*var),
                })
            }
            _ => Ok(()),
        }
    }

    fn half(&self, buf: Buf) -> Result<(), Fault> {
        let decl = self.proc.buffer(buf);
        match decl.dtype {
            Dtype::Bf16 | Dtype::F16 => Ok(()),
            dtype => Err(Fault::NotHalf {
                buffer: decl.name.clone(),
                dtype,
            }),
        }
    }

    fn declared(&self, reg: Reg) -> Result<Ty, Fault> {
        self.proc
            .regs
            .get(reg.0 as usize)
            .copied()
            .ok_or(Fault::Undeclared {
                what: "register",
                index: reg.0,
            })
    }

    fn read(&self, reg: Reg) -> Result<Ty, Fault> {
        let ty = self.declared(reg)?;
        if self.set.contains(reg) {
            Ok(ty)
        } else {
            Err(Fault::Undefined(reg.0))
        }
    }

    fn wants(
        &self,
        reg: Reg,
        fits: impl Fn(Ty) -> bool,
        wanted: &'static str,
        what: impl Fn() -> String,
    ) -> Result<(), Fault> {
        let found = self.declared(reg)?;
        if fits(found) {
            return Ok(());
        }
        Err(Fault::Type {
            what: what(),
            reg: reg.0,
            found: found.name(),
            wanted,
        })
    }

    fn rhs(&self, reg: Reg, rhs: &Rhs) -> Result<(), Fault> {
        let ty = self.declared(reg)?;
        match rhs {
            Rhs::Const(_) => self.wants(reg, |t| t != Ty::Bool, "a number", || "constant".into()),
            Rhs::Bits(_) => self.wants(reg, is_int, "i32 or i64", || "constant bits".into()),
            Rhs::Index(ix) => {
                self.ix(ix)?;
                self.wants(reg, |t| t != Ty::Bool, "a number", || "index".into())
            }
            Rhs::Load(buf, ix) => {
                self.buffer(*buf)?;
                self.ix(ix)?;
                self.wants(reg, Ty::is_float, "f32 or f64", || {
                    format!("load from {}", self.proc.buffer(*buf).name)
                })
            }
            Rhs::LoadBits(buf, ix) => {
                self.buffer(*buf)?;
                self.ix(ix)?;
                self.half(*buf)?;
                self.wants(
                    reg,
                    |t| t == Ty::I32,
                    "i32",
                    || format!("load of bits from {}", self.proc.buffer(*buf).name),
                )
            }
            Rhs::Op(op, args) => {
                if args.len() != op.arity() {
                    return Err(Fault::Arity {
                        op: op.name(),
                        wanted: op.arity(),
                        found: args.len(),
                    });
                }
                let types: Vec<Ty> = args
                    .iter()
                    .map(|a| self.read(*a))
                    .collect::<Result<_, _>>()?;
                self.op(*op, (reg, ty), args, &types)
            }
        }
    }
}

/// Whether statements have neither a shuffle nor a loop.
fn straight(stmts: &[Stmt]) -> bool {
    stmts.iter().all(|stmt| match stmt {
        Stmt::Set(_, Rhs::Op(op, _)) => !op.is_shuffle(),
        Stmt::If { then, els, .. } => straight(then) && straight(els),
        Stmt::For { .. } | Stmt::Sync | Stmt::Arrive | Stmt::Wait | Stmt::Meet => false,
        _ => true,
    })
}

fn is_int(ty: Ty) -> bool {
    matches!(ty, Ty::I32 | Ty::I64)
}

#[cfg(test)]
mod tests;
