//! Statements: loops, assignments, ifs.

use std::rc::Rc;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;

use super::Emitter;
use super::address::{Bound, Induction};
use super::value::{Lane, Val, scalar_type, vector_type};
use crate::backend::EmitError;
use crate::dtype::Ty;
use crate::lanes::Lanes;
use crate::loop_ir::{Ix, LoopKind, Reg, Rhs, Stmt, Var};

impl Emitter<'_> {
    pub(super) fn stmts(&mut self, stmts: &[Stmt]) -> Result<(), EmitError> {
        stmts.iter().try_for_each(|s| self.stmt(s))?;
        for stmt in stmts {
            if let Stmt::Let(var, _) = stmt {
                self.vars[var.0 as usize] = None;
            }
        }
        Ok(())
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), EmitError> {
        match stmt {
            Stmt::For {
                var,
                kind: LoopKind::Core,
                body,
                ..
            } => {
                let (first, end) = (self.params[2], self.params[3]);
                self.counted(*var, first, end, 1, false, body)
            }
            Stmt::For {
                var,
                kind: LoopKind::Serial,
                lo,
                hi,
                step,
                body,
            } => {
                let runs = matches!((lo, hi), (Ix::Const(a), Ix::Const(b)) if a < b);
                let (lo, hi) = (self.ix(lo), self.ix(hi));
                self.counted(*var, lo, hi, *step, runs, body)
            }
            Stmt::For {
                var,
                kind: LoopKind::Lane(width),
                lo,
                body,
                ..
            } => {
                self.check_width(*width)?;
                let lanes = Lanes::of(*var, *width, body);
                let lane = Lane {
                    var: *var,
                    width: *width,
                    lo: lo.clone(),
                    lanes,
                };
                self.enter_lanes(&lane);
                self.roots[var.0 as usize] = self.roots_of(lo);
                self.lane = Some(Rc::new(lane));
                let result = self.stmts(body);
                self.lane = None;
                result
            }
            Stmt::Prefetch(..) | Stmt::Sync | Stmt::Arrive | Stmt::Wait => Ok(()),
            Stmt::Meet
            | Stmt::Copy(..)
            | Stmt::For {
                kind: LoopKind::Team,
                ..
            } => self.unsupported("memory of a block"),
            Stmt::Let(var, ix) => {
                self.define(*var, ix);
                Ok(())
            }
            Stmt::Set(reg, rhs) => {
                let val = self.rhs(*reg, rhs)?;
                self.write(*reg, val);
                Ok(())
            }
            Stmt::Store(buf, ix, reg) | Stmt::StoreBits(buf, ix, reg) => self.store(*buf, ix, *reg),
            Stmt::LoadRow(..) | Stmt::StoreRow(..) | Stmt::Fetch(..) | Stmt::Take(..) => {
                self.unsupported("an access to a row")
            }
            Stmt::If { lhs, rhs, .. } if self.differs(lhs) || self.differs(rhs) => {
                self.unsupported("a condition that differs between lanes")
            }
            Stmt::If {
                lhs,
                rhs,
                then,
                els,
            } => self.choice(lhs, rhs, then, els),
        }
    }

    /// Whether an expression depends on the lane.
    fn differs(&self, ix: &Ix) -> bool {
        self.lane.as_ref().is_some_and(|l| ix.mentions(l.var))
    }

    /// A loop tested at its end behind a test that it runs at all (`runs`: known). What leaves the loop lands between
    /// the two, so that a loop without turns reads nothing.
    fn counted(
        &mut self,
        var: Var,
        lo: Value,
        hi: Value,
        step: i64,
        runs: bool,
        body: &[Stmt],
    ) -> Result<(), EmitError> {
        let (before, turn, after) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        if runs {
            self.b.ins().jump(before, &[]);
        } else {
            let any = self.b.ins().icmp(IntCC::SignedLessThan, lo, hi);
            self.b.ins().brif(any, before, &[], after, &[]);
        }
        self.b.switch_to_block(before);
        self.b.seal_block(before);
        let counter = self.b.declare_var(types::I64);
        self.b.def_var(counter, lo);
        let mut stepped: Vec<_> = Vec::new();
        if !body.iter().any(has_loop) {
            for stride in self.strides(var, body) {
                let variable: Variable = self.b.declare_var(types::I64);
                let start = self.times(&stride, lo);
                self.b.def_var(variable, start);
                stepped.push((stride, variable));
            }
        }
        self.b.ins().jump(turn, &[]);

        self.b.switch_to_block(turn);
        self.vars[var.0 as usize] = Some(Bound::Counter(counter));
        self.counted[var.0 as usize] = false;
        self.loops.push(Induction {
            var,
            stepped,
            lets: Vec::new(),
            guarded: false,
        });
        self.stmts(body)?;
        let mut test = None;
        for (stride, offset) in self.loops.pop().map(|l| l.stepped).unwrap_or_default() {
            let by = self.b.ins().iconst(types::I64, step);
            let by = self.times(&stride, by);
            let next = self.advance(offset, by);
            if test.is_none() && stride.constant().is_some_and(|k| k > 0) {
                test = Some((next, self.times(&stride, hi)));
            }
        }
        // An offset that grows with the counter is tested in its place where nothing else reads the counter.
        let (at, end) = match test {
            Some(test) if !self.counted[var.0 as usize] => test,
            _ => {
                let by = self.b.ins().iconst(types::I64, step);
                (self.advance(counter, by), hi)
            }
        };
        let more = self.b.ins().icmp(IntCC::SignedLessThan, at, end);
        self.b.ins().brif(more, turn, &[], after, &[]);
        self.b.seal_block(turn);
        self.b.seal_block(after);
        self.b.switch_to_block(after);
        self.vars[var.0 as usize] = None;
        Ok(())
    }

    /// variable += by: its new value.
    fn advance(&mut self, variable: Variable, by: Value) -> Value {
        let now = self.b.use_var(variable);
        let next = self.b.ins().iadd(now, by);
        self.b.def_var(variable, next);
        next
    }

    fn choice(&mut self, lhs: &Ix, rhs: &Ix, then: &[Stmt], els: &[Stmt]) -> Result<(), EmitError> {
        let (yes, no, after) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        let (lhs, rhs) = (self.ix(lhs), self.ix(rhs));
        let holds = self.b.ins().icmp(IntCC::SignedLessThan, lhs, rhs);
        self.b.ins().brif(holds, yes, &[], no, &[]);
        let before = self
            .loops
            .last_mut()
            .map(|l| std::mem::replace(&mut l.guarded, true));
        for (block, stmts) in [(yes, then), (no, els)] {
            self.b.seal_block(block);
            self.b.switch_to_block(block);
            self.stmts(stmts)?;
            self.b.ins().jump(after, &[]);
        }
        if let (Some(l), Some(before)) = (self.loops.last_mut(), before) {
            l.guarded = before;
        }
        self.b.seal_block(after);
        self.b.switch_to_block(after);
        Ok(())
    }

    fn rhs(&mut self, reg: Reg, rhs: &Rhs) -> Result<Val, EmitError> {
        let ty = self.proc.ty(reg);
        match rhs {
            Rhs::Const(x) => Ok(Val::Scalar(match ty {
                Ty::F32 => self.b.ins().f32const(*x as f32),
                Ty::F64 => self.b.ins().f64const(*x),
                Ty::I32 => self.b.ins().iconst(types::I32, i64::from(*x as i32 as u32)),
                Ty::I64 => self.b.ins().iconst(types::I64, *x as i64),
                Ty::Bool => self.b.ins().iconst(types::I8, i64::from(*x != 0.0)),
            })),
            Rhs::Bits(bits) => {
                let bits = if ty == Ty::I64 {
                    *bits
                } else {
                    *bits & 0xffff_ffff
                };
                Ok(Val::Scalar(
                    self.b.ins().iconst(scalar_type(ty), bits as i64),
                ))
            }
            Rhs::Index(ix) => Ok(self.index(ix, ty)),
            Rhs::Load(buf, ix) | Rhs::LoadBits(buf, ix) => self.load(*buf, ix, ty),
            Rhs::Op(op, args) => self.op(reg, *op, args),
        }
    }

    /// An integer expression as a number, in every lane.
    fn index(&mut self, ix: &Ix, ty: Ty) -> Val {
        match self.lane.clone() {
            Some(lane) if ix.mentions(lane.var) => {
                let scalars: Vec<Value> = (0..lane.width)
                    .map(|k| self.at_lane(k, |e| e.number(ix, ty)))
                    .collect();
                Val::Vector(self.collect(&scalars, vector_type(ty, Ty::I32)))
            }
            _ => Val::Scalar(self.number(ix, ty)),
        }
    }

    fn number(&mut self, ix: &Ix, ty: Ty) -> Value {
        let value = self.ix(ix);
        match ty {
            Ty::F32 | Ty::F64 => self.b.ins().fcvt_from_sint(scalar_type(ty), value),
            Ty::I32 => self.b.ins().ireduce(types::I32, value),
            Ty::I64 | Ty::Bool => value,
        }
    }
}

fn has_loop(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::For {
            kind: LoopKind::Lane(_),
            body,
            ..
        } => body.iter().any(has_loop),
        Stmt::For { .. } => true,
        _ => stmt.blocks().into_iter().flatten().any(has_loop),
    }
}
