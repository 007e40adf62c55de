//! Sums over the lane axis, left in parts: gradients of what the channels share.
//!
//! ```text
//! part[p] = Σ of the values of the channels whose blocks are in part p        parts: groups · P, or one a block
//! ```
//! An item runs the blocks of a part one after another and adds each to what was there, in this order, so that no two
//! items write the same element. On a CPU the vectors' lanes stay apart: a summed output has them as its last axis. On a GPU
//! they meet in a butterfly. In: a [`Builder`] whose pass has such outputs. Out: the loop over blocks, zeroes before it, stores.

use selscan_dsl::{AxisId, AxisSet, Part, ReduceOp};

use super::builder::{Builder, parts_of};
use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{Buf, Ix, LoopKind, LoopOp, Reg, Rhs, Role, Stmt, Var};
use crate::plan::Sums;

impl Sums {
    /// The blocks of part `p`: first, and one after the last.
    fn blocks(&self, p: Var, blocks: &Ix) -> (Ix, Ix) {
        let (p, parts) = (Ix::Var(p), Ix::Const(i64::from(self.parts)));
        let in_group = blocks.clone() / self.groups.clone();
        let each = in_group.clone().div_ceil(i64::from(self.parts));
        let group = p.clone() / parts.clone();
        let first = (p - group.clone() * parts) * each.clone();
        let end = (first.clone() + each).min(in_group.clone());
        let start = group * in_group;
        (start.clone() + first, start + end)
    }

    /// The statements of a block as those of a part.
    pub(super) fn each_block(&self, p: Var, block: Var, blocks: &Ix, body: Vec<Stmt>) -> Vec<Stmt> {
        let (lo, hi) = self.blocks(p, blocks);
        vec![Stmt::For {
            var: block,
            kind: LoopKind::Serial,
            lo,
            hi,
            step: 1,
            body,
        }]
    }
}

impl Builder<'_> {
    /// Whether an output is left in parts.
    pub fn is_summed(&self, output: usize) -> bool {
        let sums = self.pass.sums.as_ref();
        sums.is_some_and(|sums| sums.outputs[output].is_some())
    }

    /// Neighbours that a part has at each of its points.
    fn apart(&self) -> i64 {
        self.pass.sums.as_ref().map_or(1, |sums| sums.apart)
    }

    /// The memory of an output that is left in parts.
    pub fn parts(
        &mut self,
        name: &str,
        (role, dtype): (Role, Dtype),
        axes: &[AxisId],
        complex: bool,
    ) -> Buf {
        let count = match &self.pass.sums {
            Some(sums) => sums.all.clone(),
            None => Ix::Const(1),
        };
        let len = Ix::Const(self.apart() * if complex { 2 } else { 1 });
        let len = axes.iter().fold(len, |len, &a| {
            let lane = self.pass.structure.lane == Some(a);
            len * if lane { count.clone() } else { self.extent(a) }
        });
        self.buffer(name, role, dtype, len)
    }

    /// The index of an output's element in its part.
    pub fn part_ix(&self, output: usize, part: Part, lane: Ix) -> Ix {
        let decl = &self.pass.recurrence.outputs[output];
        let mut ix = Ix::Const(0);
        if let (Some(sums), Some(own)) = (&self.pass.sums, &self.part) {
            for &axis in sums.outputs[output].iter().flatten() {
                let (extent, at) = if self.pass.structure.lane == Some(axis) {
                    (sums.all.clone(), own.clone())
                } else {
                    (self.extent(axis), self.position(axis))
                };
                ix = ix * extent + at;
            }
        }
        ix = ix * Ix::Const(self.apart()) + lane;
        match decl.complex {
            true => ix * Ix::Const(2) + Ix::Const(i64::from(part == Part::Im)),
            false => ix,
        }
    }

    /// Adds one half of an output at the present point to its part.
    pub fn store_summed(&mut self, output: usize, part: Part, value: Reg) {
        let buf = self.outputs[output];
        let adds = self.pass.sums.as_ref().is_some_and(|sums| sums.parts > 0);
        let (ty, lanes) = (self.ty, self.lanes);
        if !self.plan.wide {
            let lane = self.lane_var.map_or(Ix::Const(0), Ix::Var);
            let ix = self.part_ix(output, part, lane);
            let before = self.set(ty, Rhs::Load(buf, ix.clone()));
            let both = self.combine(ReduceOp::Sum, before, value);
            return self.stmt(Stmt::Store(buf, ix, both));
        }
        let mut sum = self.butterfly(value, lanes / 2);
        let ix = self.part_ix(output, part, Ix::Const(0));
        let mut store = Vec::new();
        if adds {
            let (before, both) = (self.proc.reg(ty), self.proc.reg(ty));
            let add = LoopOp::Math(selscan_dsl::Op::Add);
            store.push(Stmt::Set(before, Rhs::Load(buf, ix.clone())));
            store.push(Stmt::Set(both, Rhs::Op(add, vec![before, sum])));
            sum = both;
        }
        store.push(Stmt::Store(buf, ix, sum));
        match self.lane_var {
            Some(lane) => self.stmt(Stmt::If {
                lhs: Ix::Var(lane),
                rhs: Ix::Const(1),
                then: store,
                els: vec![],
            }),
            None => store.into_iter().for_each(|stmt| self.stmt(stmt)),
        }
    }

    /// The sum of a value over groups of 2·`far` lanes, in each of them; 0: the value itself.
    fn butterfly(&mut self, mut sum: Reg, mut far: u32) -> Reg {
        while far > 0 {
            sum = self.exchanged(ReduceOp::Sum, sum, far);
            far /= 2;
        }
        sum
    }

    /// A value reduced with what the lane has whose number differs in a bit.
    pub fn exchanged(&mut self, op: ReduceOp, x: Reg, bit: u32) -> Reg {
        let other = Rhs::Op(LoopOp::ShuffleXor(bit as u8), vec![x]);
        let other = self.set(self.ty, other);
        self.combine(op, x, other)
    }

    /// Whether the lanes add up all the points of an output at once: each then has the sums of some.
    pub fn is_gathered(&self, output: usize, points: i64) -> bool {
        let adds = self.pass.sums.as_ref().is_some_and(|sums| sums.parts > 0);
        let decl = &self.pass.recurrence.outputs[output];
        self.plan.wide
            && self.is_summed(output)
            && !adds
            && !decl.complex
            && self.lanes == 32
            && self.vectors == 1
            && matches!(points, 2 | 4 | 8 | 16 | 32)
    }

    /// Adds up, over the lanes, the values of an output at all of its inner points, in order: each exchange halves what a
    /// lane has left, so that P points take P − 1 of them and not 5 P.
    pub fn store_gathered(&mut self, output: usize, mut values: Vec<Reg>) {
        let Some(lane) = self.lane_var else { return };
        let mut far: u32 = 16;
        while values.len() > 1 {
            values = self.halved(&values, (lane, far));
            far /= 2;
        }
        let Some(left) = values.pop() else { return };
        let alike = i64::from((2 * far).max(1));
        let sum = self.butterfly(left, far);
        let first = self.part_ix(output, Part::Real, Ix::Const(0));
        let ix = first + Ix::Var(lane) / Ix::Const(alike);
        self.stmt(Stmt::Store(self.outputs[output], ix, sum));
    }

    /// Half of an even number of values, each added to what the lane has whose number differs in a bit: the upper half where the
    /// bit is set.
    pub fn halved(&mut self, values: &[Reg], (lane, bit): (Var, u32)) -> Vec<Reg> {
        let upper = self.lane_bit(lane, bit);
        let (low, high) = values.split_at(values.len() / 2);
        let mut out = Vec::new();
        for (&low, &high) in low.iter().zip(high) {
            let select = LoopOp::Math(selscan_dsl::Op::Select);
            let own = self.set(self.ty, Rhs::Op(select, vec![upper, high, low]));
            let other = self.set(self.ty, Rhs::Op(select, vec![upper, low, high]));
            let theirs = Rhs::Op(LoopOp::ShuffleXor(bit as u8), vec![other]);
            let theirs = self.set(self.ty, theirs);
            out.push(self.combine(ReduceOp::Sum, own, theirs));
        }
        out
    }

    /// Whether a bit of the lane's number is set; computed once an item.
    fn lane_bit(&mut self, lane: Var, bit: u32) -> Reg {
        if let Some(&known) = self.lane_bits.get(&bit) {
            return known;
        }
        let frame = self.base;
        let number = self.emit(frame, Ty::I32, Rhs::Index(Ix::Var(lane)));
        let mask = self.emit(frame, Ty::I32, Rhs::Bits(u64::from(bit)));
        let zero = self.emit(frame, Ty::I32, Rhs::Bits(0));
        let masked = self.emit(frame, Ty::I32, Rhs::Op(LoopOp::And, vec![number, mask]));
        let set = self.emit(frame, Ty::Bool, Rhs::Op(LoopOp::ILt, vec![zero, masked]));
        self.lane_bits.insert(bit, set);
        set
    }

    /// Zeroes what an item will add to; stands before its blocks.
    pub fn clear_parts(&mut self) -> Vec<Stmt> {
        self.begin(None, 1, 1);
        let pass = self.pass;
        let adds = pass.sums.as_ref().is_some_and(|sums| sums.parts > 0);
        for (k, decl) in pass.recurrence.outputs.iter().enumerate() {
            if !adds || !self.is_summed(k) {
                continue;
            }
            let grid = self.frames[0].bound;
            let lane = pass.structure.lane;
            let axes: Vec<AxisId> = decl
                .axes
                .iter()
                .copied()
                .filter(|&a| !grid.contains(a) && Some(a) != lane)
                .collect();
            self.clear_over(&axes, k);
        }
        self.finish()
    }

    fn clear_over(&mut self, axes: &[AxisId], output: usize) {
        let Some((&axis, rest)) = axes.split_first() else {
            let decl = &self.pass.recurrence.outputs[output];
            let parts = parts_of(decl.complex);
            let zero = self.set(self.ty, Rhs::Const(0.0));
            for &part in parts {
                for lane in 0..self.apart() {
                    let ix = self.part_ix(output, part, Ix::Const(lane));
                    self.stmt(Stmt::Store(self.outputs[output], ix, zero));
                }
            }
            return;
        };
        let name = self.pass.recurrence.axis_name(axis).to_lowercase();
        let (lo, hi) = if axis == self.pass.recurrence.time {
            self.own_time()
        } else {
            (Ix::Const(0), self.extent(axis))
        };
        self.serial(&name, AxisSet::of(axis), lo, hi, 1, |b, at| {
            b.with_axis(axis, at, -1, |b| b.clear_over(rest, output));
        });
    }
}
