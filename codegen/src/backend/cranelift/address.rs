//! Integer expressions and addresses.
//!
//! An address is base + Σ (what each loop adds, outermost first) + constant: the sums of outer loops leave inner ones
//! (Cranelift moves them out), the constant is the instruction's displacement, and what the innermost loop adds is a
//! number stepped with it, shared by every access with that stride.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;

use super::{Emitter, FIXED};
use crate::loop_ir::{Buf, Ix, Rhs, Stmt, Var};
use crate::polynomial::{Atom, Polynomial};

/// What a loop or index variable stands for.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    /// A value.
    Value(Value),
    /// A loop's counter.
    Counter(Variable),
}

/// A loop around the current statement, and the multiples of its variable that are stepped with it.
pub(super) struct Induction {
    pub var: Var,
    /// Strides in bytes, and stride·var.
    pub stepped: Vec<(Polynomial, Variable)>,
    /// Index variables set in its body, outside of inner loops.
    pub lets: Vec<Var>,
    /// Whether an if lies between this loop and the next inner one, or the current statement.
    pub guarded: bool,
}

impl Emitter<'_> {
    /// The value of an expression, 64 bits.
    pub(super) fn ix(&mut self, ix: &Ix) -> Value {
        match ix {
            Ix::Const(k) => self.b.ins().iconst(types::I64, *k),
            Ix::Var(v) => self.var(*v),
            Ix::Extent(axis) => {
                let extents = self.params[1];
                let at = 8 * i32::from(axis.0);
                self.b.ins().load(types::I64, FIXED, extents, at)
            }
            Ix::Add(a, b) => {
                let (a, b) = (self.ix(a), self.ix(b));
                self.b.ins().iadd(a, b)
            }
            Ix::Sub(a, b) => {
                let (a, b) = (self.ix(a), self.ix(b));
                self.b.ins().isub(a, b)
            }
            Ix::Mul(a, b) => {
                let (a, b) = (self.ix(a), self.ix(b));
                self.b.ins().imul(a, b)
            }
            // Operands are never negative: an unsigned division cannot overflow.
            Ix::Div(a, b) => {
                let (a, b) = (self.ix(a), self.ix(b));
                self.b.ins().udiv(a, b)
            }
            Ix::Min(a, b) => {
                let (a, b) = (self.ix(a), self.ix(b));
                let less = self.b.ins().icmp(IntCC::SignedLessThan, a, b);
                self.b.ins().select(less, a, b)
            }
        }
    }

    /// Sets an index variable.
    pub(super) fn define(&mut self, var: Var, ix: &Ix) {
        let value = self.ix(ix);
        self.vars[var.0 as usize] = Some(Bound::Value(value));
        self.roots[var.0 as usize] = self.roots_of(ix);
        if let Some(inner) = self.loops.last_mut() {
            inner.lets.push(var);
        }
    }

    /// The loop variables that an expression depends on.
    pub(super) fn roots_of(&self, ix: &Ix) -> Vec<Var> {
        let vars = (0..self.vars.len() as u32).map(Var);
        vars.filter(|v| ix.mentions(*v))
            .flat_map(|v| self.roots[v.0 as usize].clone())
            .collect()
    }

    /// Whether an expression depends on a loop variable, by itself or through index variables.
    pub(super) fn depends(&self, ix: &Ix, on: Var) -> bool {
        self.roots_of(ix).contains(&on)
    }

    /// A loop variable's value; a lane variable's is that of the first lane unless it was set otherwise.
    fn var(&mut self, var: Var) -> Value {
        match (self.vars[var.0 as usize], self.lane.clone()) {
            (Some(Bound::Value(value)), _) => value,
            (Some(Bound::Counter(counter)), _) => {
                self.counted[var.0 as usize] = true;
                self.b.use_var(counter)
            }
            (None, Some(lane)) if lane.var == var => self.ix(&lane.lo),
            (None, _) => self.b.ins().iconst(types::I64, 0),
        }
    }

    /// Runs `f` with the lane variable at lane `k`.
    pub(super) fn at_lane<T>(&mut self, k: u32, f: impl FnOnce(&mut Self) -> T) -> T {
        let Some(lane) = self.lane.clone() else {
            return f(self);
        };
        let slot = lane.var.0 as usize;
        let before = self.vars[slot];
        let lo = self.ix(&lane.lo);
        let at = self.b.ins().iadd_imm_s(lo, i64::from(k));
        self.vars[slot] = Some(Bound::Value(at));
        let result = f(self);
        self.vars[slot] = before;
        result
    }

    /// The address of an element (in the first lane, unless the lane variable was set): pointer and displacement.
    pub(super) fn address(&mut self, buf: Buf, ix: &Ix) -> (Value, i32) {
        let base = self.bases[buf.0 as usize];
        let bytes = self.proc.buffer(buf).dtype.bytes() as i64;
        let Some(sum) = self.byte_offset(ix, bytes) else {
            let index = self.ix(ix);
            let scaled = self.b.ins().imul_imm_s(index, bytes);
            return (self.b.ins().iadd(base, scaled), 0);
        };
        let (constant, mut rest) = sum.partition(<[Atom]>::is_empty);
        let constant = constant.constant().unwrap_or(0);
        let (mut groups, mut displacement) = (Vec::new(), 0);
        // A row of lanes adds to the displacement, so it must not be near the end of its range.
        match i32::try_from(constant) {
            Ok(small) if small.unsigned_abs() < 1 << 30 => displacement = small,
            _ => groups.push(self.b.ins().iconst(types::I64, constant)),
        }
        for i in (0..self.loops.len()).rev() {
            // What changes with this loop: its variable, and the index variables set inside it.
            let var = self.loops[i].var;
            let lets = self.loops[i].lets.clone();
            let (of_loop, others) = rest.partition(|atoms| atoms.iter().any(|a| a.mentions(var)));
            let (of_lets, others) =
                others.partition(|atoms| atoms.iter().any(|a| lets.iter().any(|v| a.mentions(*v))));
            rest = others;
            if of_loop.constant() != Some(0) {
                let stride = of_loop.stride(var);
                let mut stepped = self.loops[i].stepped.iter();
                let value = match stepped.find(|(s, _)| Some(s) == stride.as_ref()) {
                    Some(&(_, variable)) => self.b.use_var(variable),
                    None => self.polynomial(&of_loop),
                };
                groups.push(value);
            }
            if of_lets.constant() != Some(0) {
                let value = self.polynomial(&of_lets);
                groups.push(value);
            }
        }
        let mut pointer = base;
        if rest.constant() != Some(0) {
            let rest = self.polynomial(&rest);
            pointer = self.b.ins().iadd(pointer, rest);
        }
        for group in groups.into_iter().rev() {
            pointer = self.b.ins().iadd(pointer, group);
        }
        (pointer, displacement)
    }

    /// bytes·ix with the lane variable at the first lane; `None` where it has no polynomial.
    fn byte_offset(&self, ix: &Ix, bytes: i64) -> Option<Polynomial> {
        let mut sum = Polynomial::of(ix)?;
        if let Some(lane) = &self.lane
            && self.vars[lane.var.0 as usize].is_none()
        {
            sum = sum.substitute(lane.var, &Polynomial::of(&lane.lo)?)?;
        }
        Polynomial::default().plus(&sum, bytes)
    }

    /// Σ coefficient·Π atoms.
    fn polynomial(&mut self, sum: &Polynomial) -> Value {
        let mut total = None;
        for (atoms, k) in sum.terms() {
            let mut product = None;
            for atom in atoms {
                let value = match atom {
                    Atom::Var(v) => self.var(*v),
                    Atom::Extent(axis) => self.ix(&Ix::Extent(*axis)),
                    Atom::Other(ix) => self.ix(ix),
                };
                product = Some(match product {
                    Some(p) => self.b.ins().imul(p, value),
                    None => value,
                });
            }
            let term = match (product, k) {
                (Some(p), 1) => p,
                (Some(p), k) if k > 0 && k.count_ones() == 1 => {
                    self.b.ins().ishl_imm_u(p, i64::from(k.trailing_zeros()))
                }
                (Some(p), k) => self.b.ins().imul_imm_s(p, k),
                (None, k) => self.b.ins().iconst(types::I64, k),
            };
            total = Some(match total {
                Some(t) => self.b.ins().iadd(t, term),
                None => term,
            });
        }
        match total {
            Some(total) => total,
            None => self.b.ins().iconst(types::I64, 0),
        }
    }

    /// The strides in bytes by which `body` steps through memory with `var`, those that an addressing mode has by
    /// itself (1, 2, 4, 8) left out. `lanes` are lane loops inside the body: their variables stand at their start.
    pub(super) fn strides(&self, var: Var, body: &[Stmt]) -> Vec<Polynomial> {
        let mut found = Vec::new();
        self.collect_strides(var, body, &mut Vec::new(), &mut found);
        found
    }

    fn collect_strides(
        &self,
        var: Var,
        body: &[Stmt],
        lanes: &mut Vec<(Var, Ix)>,
        found: &mut Vec<Polynomial>,
    ) {
        for stmt in body {
            let access = match stmt {
                Stmt::For {
                    var: v,
                    kind,
                    lo,
                    body,
                    ..
                } => {
                    let is_lane = matches!(kind, crate::loop_ir::LoopKind::Lane(_));
                    if is_lane {
                        lanes.push((*v, lo.clone()));
                    }
                    self.collect_strides(var, body, lanes, found);
                    if is_lane {
                        lanes.pop();
                    }
                    continue;
                }
                Stmt::If { then, els, .. } => {
                    self.collect_strides(var, then, lanes, found);
                    self.collect_strides(var, els, lanes, found);
                    continue;
                }
                Stmt::Set(_, Rhs::Load(buf, ix) | Rhs::LoadBits(buf, ix)) => (buf, ix),
                Stmt::Store(buf, ix, _) | Stmt::StoreBits(buf, ix, _) => (buf, ix),
                Stmt::Let(..) | Stmt::Set(..) | Stmt::LoadRow(..) | Stmt::StoreRow(..) => continue,
                Stmt::Fetch(..) | Stmt::Take(..) | Stmt::Prefetch(..) => continue,
                Stmt::Copy(..) | Stmt::Sync | Stmt::Arrive | Stmt::Wait | Stmt::Meet => continue,
            };
            let bytes = self.proc.buffer(*access.0).dtype.bytes() as i64;
            let Some(mut sum) = self.byte_offset(access.1, bytes) else {
                continue;
            };
            for (lane, lo) in lanes.iter() {
                if let Some(at) = Polynomial::of(lo).and_then(|lo| sum.substitute(*lane, &lo)) {
                    sum = at;
                }
            }
            if let Some(stride) = sum.stride(var)
                && !matches!(stride.constant(), Some(0 | 1 | 2 | 4 | 8))
                && self.is_known(&stride)
                && !found.contains(&stride)
            {
                found.push(stride);
            }
        }
    }

    /// Whether every variable in it has a value here.
    fn is_known(&self, sum: &Polynomial) -> bool {
        let unknown = |atom: &Atom| {
            let mut vars = self.vars.iter().enumerate();
            vars.any(|(v, value)| value.is_none() && atom.mentions(Var(v as u32)))
        };
        !sum.terms().any(|(atoms, _)| atoms.iter().any(unknown))
    }

    /// stride·at.
    pub(super) fn times(&mut self, stride: &Polynomial, at: Value) -> Value {
        match stride.constant() {
            Some(k) => self.b.ins().imul_imm_s(at, k),
            None => {
                let stride = self.polynomial(stride);
                self.b.ins().imul(at, stride)
            }
        }
    }
}
