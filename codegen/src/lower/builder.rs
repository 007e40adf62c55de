//! The builder of one work item: loops under construction, where each axis stands, and the values already computed.
//!
//! A value is emitted in the outermost open loop that binds all of its axes, once: hoisting is a property of the
//! builder, not a pass.

use std::collections::HashMap;

use selscan_dsl::{AxisId, AxisIndex, AxisSet, InputId, Node, NodeId, Part, ReduceOp, StateId, When};

use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{Buf, BufferDecl, Ix, LoopKind, LoopOp, Proc, Reg, Rhs, Role, Stmt, Var};
use crate::plan::{Pass, Plan};

/// A loop under construction.
struct Frame {
    stmts: Vec<Stmt>,
    /// The axes bound in this loop and those around it.
    bound: AxisSet,
    memo: HashMap<(NodeId, Vec<i64>), Reg>,
    groups: HashMap<(AxisId, AxisId, i64), Ix>,
    head: Option<(Var, LoopKind, Ix, Ix, i64)>,
}

/// A half of a state: the unit that has one register or buffer element a point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Slot {
    pub state: StateId,
    pub part: Part,
}

/// Where a value lies in scratch memory: `[time in the tile][inner axes][lanes of the block]`.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub buf: Buf,
    pub timed: bool,
    pub axes: Vec<AxisId>,
    pub laned: bool,
}

/// The builder of one proc; [`Builder::begin`] starts an item body.
pub(super) struct Builder<'a> {
    pub pass: &'a Pass,
    pub proc: Proc,
    pub chunk: Option<Ix>,
    ty: Ty,
    inputs: Vec<Option<Buf>>,
    initial: Vec<Option<Buf>>,
    last: Vec<Option<Buf>>,
    outputs: Vec<Buf>,
    /// The position on each axis, where it is bound.
    at: Vec<Option<Ix>>,
    /// Which unrolled copy of each axis is being emitted; −1 where the axis is not unrolled.
    copy: Vec<i64>,
    grid: AxisSet,
    frames: Vec<Frame>,
    first: Option<Var>,
    lane_var: Option<Var>,
    lanes: u32,
    pub vectors: u32,
    /// The step within the tile.
    pub local: Ix,
    pub stored: HashMap<NodeId, Stored>,
    /// Values of states in registers, by read node and copy.
    pub state_regs: HashMap<(Slot, When, Vec<i64>), Reg>,
    /// Buffers of states, by slot: the value before the step, and after it where that is apart.
    pub state_bufs: HashMap<(Slot, When), Stored>,
    names: u32,
}

impl<'a> Builder<'a> {
    pub fn new(plan: &Plan, pass: &'a Pass) -> Self {
        let rec = &pass.recurrence;
        let proc = Proc {
            name: pass.name.clone(),
            extents: plan.extent_names.clone(),
            buffers: vec![],
            vars: vec![],
            regs: vec![],
            items: Ix::Const(0),
            body: vec![],
        };
        let mut b = Builder {
            pass,
            proc,
            chunk: None,
            ty: plan.compute,
            inputs: vec![],
            initial: vec![],
            last: vec![],
            outputs: vec![],
            at: vec![None; rec.axes.len()],
            copy: vec![-1; rec.axes.len()],
            grid: AxisSet::EMPTY,
            frames: vec![],
            first: None,
            lane_var: None,
            lanes: 1,
            vectors: 1,
            local: Ix::Const(0),
            stored: HashMap::new(),
            state_regs: HashMap::new(),
            state_bufs: HashMap::new(),
            names: 0,
        };
        let live = rec.graph.reachable(&rec.roots());
        let used = |i: usize| live.iter().any(|&id| matches!(rec.graph.node(id), Node::Input { input: InputId(k), .. } if *k as usize == i));
        for (i, (decl, &role)) in rec.inputs.iter().zip(&pass.inputs).enumerate() {
            let buf = used(i).then(|| b.tensor(&decl.name, role, &decl.axes, decl.complex, false));
            b.inputs.push(buf);
        }
        let chunked = pass.chunk.is_some();
        for (state, (initial, last)) in rec.states.iter().zip(pass.initial.iter().zip(&pass.last)) {
            let name = |what: &str| format!("{}_{what}", state.name);
            let buf = initial.map(|role| b.tensor(&name("initial"), role, &state.axes, state.complex, chunked));
            b.initial.push(buf);
            let buf = last.map(|role| b.tensor(&name("last"), role, &state.axes, state.complex, chunked));
            b.last.push(buf);
        }
        for (decl, &role) in rec.outputs.iter().zip(&pass.outputs) {
            let buf = b.tensor(&decl.name, role, &decl.axes, decl.complex, false);
            b.outputs.push(buf);
        }
        b
    }

    fn tensor(&mut self, name: &str, (role, dtype): (Role, Dtype), axes: &[AxisId], complex: bool, chunked: bool) -> Buf {
        let mut len = Ix::Const(if complex { 2 } else { 1 });
        if let (true, Some(chunk)) = (chunked, self.pass.chunk) {
            len = len * self.extent(self.pass.recurrence.time).div_ceil(i64::from(chunk));
        }
        let len = axes.iter().fold(len, |len, &a| len * self.extent(a));
        self.proc.buffers.push(BufferDecl { name: name.to_owned(), role, dtype, len });
        Buf(self.proc.buffers.len() as u32 - 1)
    }

    /// The extent of an axis.
    pub fn extent(&self, axis: AxisId) -> Ix {
        self.pass.extents[axis.0 as usize].clone()
    }
    /// The compiled-in extent of an inner axis.
    pub fn known(&self, axis: AxisId) -> i64 {
        match self.extent(axis) {
            Ix::Const(n) => n,
            _ => 0,
        }
    }
    /// Both halves of a complex state, or the one of a real state.
    pub fn slots(&self, state: StateId) -> Vec<(Slot, NodeId)> {
        let decl = self.pass.recurrence.state(state);
        match decl.update_im {
            Some(im) => vec![(Slot { state, part: Part::Re }, decl.update), (Slot { state, part: Part::Im }, im)],
            None => vec![(Slot { state, part: Part::Real }, decl.update)],
        }
    }
    /// Every slot in order, with the node of its next value.
    pub fn all_slots(&self) -> Vec<(Slot, NodeId)> {
        self.pass.recurrence.state_ids().flat_map(|s| self.slots(s)).collect()
    }
    /// The inner axes of a state in memory order.
    pub fn state_inner(&self, state: StateId) -> Vec<AxisId> {
        let decl = self.pass.recurrence.state(state);
        decl.axes.iter().copied().filter(|&a| self.pass.structure.inner.contains(a)).collect()
    }
    /// The register type of arithmetic.
    pub fn ty(&self) -> Ty {
        self.ty
    }

    /// Says where a parallel axis stands in every item.
    pub fn bind_axis(&mut self, axis: AxisId, at: Ix) {
        self.at[axis.0 as usize] = Some(at);
        self.grid = self.grid.with(axis);
    }

    /// Starts the body of one kind of item: `vectors` vectors of `lanes` points from `first` on.
    pub fn begin(&mut self, first: Option<Var>, lanes: u32, vectors: u32) {
        self.frames.clear();
        self.stored.clear();
        self.state_regs.clear();
        self.state_bufs.clear();
        (self.first, self.lanes, self.vectors, self.lane_var) = (first, lanes, vectors, None);
        self.push(AxisSet::EMPTY, None);
        self.frames[0].bound = self.grid;
        if let (Some(first), Some(axis)) = (first, self.pass.structure.lane) {
            if lanes > 1 {
                let var = self.proc.var("lane");
                self.lane_var = Some(var);
                self.push(AxisSet::of(axis), Some((var, LoopKind::Lane(lanes), Ix::Const(0), Ix::Const(i64::from(lanes)), 1)));
            } else {
                self.frames[0].bound = self.grid.with(axis);
            }
            let lane = self.lane_var.map_or(Ix::Const(0), Ix::Var);
            self.at[axis.0 as usize] = Some(Ix::Var(first) + lane);
        }
    }

    /// Closes every loop and gives the body.
    pub fn finish(&mut self) -> Vec<Stmt> {
        while self.frames.len() > 1 {
            self.pop();
        }
        self.frames.pop().map(|f| f.stmts).unwrap_or_default()
    }

    fn push(&mut self, axes: AxisSet, head: Option<(Var, LoopKind, Ix, Ix, i64)>) {
        let bound = self.frames.last().map_or(AxisSet::EMPTY, |f| f.bound).union(axes);
        self.frames.push(Frame { stmts: vec![], bound, memo: HashMap::new(), groups: HashMap::new(), head });
    }

    fn pop(&mut self) {
        if let Some(frame) = self.frames.pop()
            && let Some(outer) = self.frames.last_mut()
        {
            match frame.head {
                Some((var, kind, lo, hi, step)) => outer.stmts.push(Stmt::For { var, kind, lo, hi, step, body: frame.stmts }),
                None => outer.stmts.extend(frame.stmts),
            }
        }
    }

    /// A serial loop; `axes` are the axes that its variable decides.
    pub fn serial<T>(&mut self, name: &str, axes: AxisSet, lo: Ix, hi: Ix, step: i64, body: impl FnOnce(&mut Self, Ix) -> T) -> T {
        let var = self.proc.var(name);
        self.push(axes, Some((var, LoopKind::Serial, lo, hi, step)));
        let out = body(self, Ix::Var(var));
        self.pop();
        out
    }

    /// A frame without a loop: what binds in it is forgotten at its end.
    pub fn block<T>(&mut self, axes: AxisSet, body: impl FnOnce(&mut Self) -> T) -> T {
        self.push(axes, None);
        let out = body(self);
        self.pop();
        out
    }

    /// Runs `body` with `axis` at a position, as the copy of that number.
    pub fn with_axis<T>(&mut self, axis: AxisId, at: Ix, copy: i64, body: impl FnOnce(&mut Self) -> T) -> T {
        let i = axis.0 as usize;
        let before = (self.at[i].replace(at), std::mem::replace(&mut self.copy[i], copy));
        let out = body(self);
        (self.at[i], self.copy[i]) = before;
        out
    }

    /// Runs `body` once for each vector of the block.
    pub fn each_vector(&mut self, mut body: impl FnMut(&mut Self)) {
        match (self.first, self.pass.structure.lane) {
            (Some(_), Some(axis)) if self.vectors > 1 => {
                for k in 0..i64::from(self.vectors) {
                    self.with_axis(axis, self.lane_at(k), k, &mut body);
                }
            }
            _ => body(self),
        }
    }

    fn lane_at(&self, vector: i64) -> Ix {
        let first = self.first.map_or(Ix::Const(0), Ix::Var);
        let lane = self.lane_var.map_or(Ix::Const(0), Ix::Var);
        first + lane + Ix::Const(vector * i64::from(self.lanes))
    }

    /// Runs `body` at every point of known `axes`, unrolled.
    pub fn each_copy(&mut self, axes: &[AxisId], body: &mut dyn FnMut(&mut Self)) {
        match axes.split_first() {
            None => body(self),
            Some((&axis, rest)) => {
                for k in 0..self.known(axis) {
                    self.with_axis(axis, Ix::Const(k), k, |b| b.each_copy(rest, body));
                }
            }
        }
    }

    /// Loops over `axes` in order; the last is unrolled by `unroll`, `body` gets the copies of one turn as positions.
    pub fn each_point(&mut self, axes: &[AxisId], unroll: i64, body: &mut dyn FnMut(&mut Self, &[Ix])) {
        match axes {
            [] => body(self, &[]),
            [axis] => {
                let n = self.known(*axis);
                let whole = n - n % unroll;
                let name = self.pass.recurrence.axis_name(*axis).to_lowercase();
                if whole == unroll {
                    let at: Vec<Ix> = (0..whole).map(Ix::Const).collect();
                    self.block(AxisSet::of(*axis), |b| body(b, &at));
                } else if whole > 0 {
                    self.serial(&name, AxisSet::of(*axis), Ix::Const(0), Ix::Const(whole), unroll, |b, at| {
                        let at: Vec<Ix> = (0..unroll).map(|k| at.clone() + Ix::Const(k)).collect();
                        body(b, &at);
                    });
                }
                if whole < n {
                    let at: Vec<Ix> = (whole..n).map(Ix::Const).collect();
                    self.block(AxisSet::of(*axis), |b| body(b, &at));
                }
            }
            [axis, rest @ ..] => {
                let name = self.pass.recurrence.axis_name(*axis).to_lowercase();
                self.serial(&name, AxisSet::of(*axis), Ix::Const(0), self.extent(*axis), 1, |b, at| {
                    b.with_axis(*axis, at, -1, |b| b.each_point(rest, unroll, body));
                });
            }
        }
    }

    /// The copies of a turn of [`Builder::each_point`] one after another, each at its position of `axis`.
    pub fn each_unrolled(&mut self, axis: Option<AxisId>, at: &[Ix], mut body: impl FnMut(&mut Self)) {
        match axis {
            Some(axis) => {
                for (k, ix) in at.iter().enumerate() {
                    self.with_axis(axis, ix.clone(), k as i64, &mut body);
                }
            }
            None => body(self),
        }
    }

    /// The bounds of this item's steps, in running order: 0..L, or a chunk of it.
    pub fn steps(&self) -> (Ix, Ix) {
        let all = self.extent(self.pass.recurrence.time);
        match (&self.chunk, self.pass.chunk) {
            (Some(chunk), Some(n)) => {
                let lo = chunk.clone() * Ix::Const(i64::from(n));
                let hi = (lo.clone() + Ix::Const(i64::from(n))).min(all);
                (lo, hi)
            }
            _ => (Ix::Const(0), all),
        }
    }

    /// A loop over steps: time stands at the step, or at its mirror image where states run in reverse.
    pub fn each_step<T>(&mut self, lo: Ix, hi: Ix, body: impl FnOnce(&mut Self, Ix) -> T) -> T {
        let time = self.pass.recurrence.time;
        let reverse = self.pass.recurrence.states.iter().any(|s| s.reverse);
        let all = self.extent(time);
        self.serial("t", AxisSet::of(time), lo, hi, 1, |b, step| {
            let at = if reverse { all - step.clone() + Ix::Const(-1) } else { step.clone() };
            b.with_axis(time, at, -1, |b| body(b, step))
        })
    }

    /// Appends a statement to the innermost open loop.
    pub fn stmt(&mut self, stmt: Stmt) {
        if let Some(frame) = self.frames.last_mut() {
            frame.stmts.push(stmt);
        }
    }
    /// Sets a new register in the innermost open loop.
    pub fn set(&mut self, ty: Ty, rhs: Rhs) -> Reg {
        let reg = self.proc.reg(ty);
        self.stmt(Stmt::Set(reg, rhs));
        reg
    }
    /// Assigns a register in the innermost open loop.
    pub fn assign(&mut self, reg: Reg, from: Reg) {
        self.stmt(Stmt::Set(reg, Rhs::Op(LoopOp::Copy, vec![from])));
    }
    /// `op(a, b)` for a reduction, in the innermost open loop.
    pub fn combine(&mut self, op: ReduceOp, a: Reg, b: Reg) -> Reg {
        self.set(self.ty, Rhs::Op(LoopOp::Math(reduce_op(op)), vec![a, b]))
    }

    /// The copies that tell two values of a node apart.
    pub fn copy_key(&self, axes: AxisSet) -> Vec<i64> {
        axes.iter().map(|a| self.copy[a.0 as usize]).filter(|&k| k >= 0).collect()
    }

    fn frame_of(&self, axes: AxisSet) -> usize {
        let needed = axes;
        self.frames.iter().position(|f| needed.is_subset(f.bound)).unwrap_or(self.frames.len() - 1)
    }

    fn emit(&mut self, frame: usize, ty: Ty, rhs: Rhs) -> Reg {
        let reg = self.proc.reg(ty);
        self.frames[frame].stmts.push(Stmt::Set(reg, rhs));
        reg
    }

    /// The value of a node at the present point.
    pub fn value(&mut self, id: NodeId) -> Reg {
        let pass = self.pass;
        let graph = &pass.recurrence.graph;
        let axes = graph.axes(id);
        let key = (id, self.copy_key(axes));
        let node = graph.node(id);
        if let Node::State { state, when, part, .. } = node
            && let Some(reg) = self.state_register(Slot { state: *state, part: *part }, *when, node)
        {
            return reg;
        }
        let frame = self.frame_of(axes);
        if let Some(&reg) = self.frames[frame].memo.get(&key) {
            return reg;
        }
        let reg = if let Some(stored) = self.stored.get(&id) {
            let stored = stored.clone();
            let ix = self.stored_ix(&stored, &[]);
            self.emit(frame, self.ty, Rhs::Load(stored.buf, ix))
        } else {
            self.compute(id, frame)
        };
        self.frames[frame].memo.insert(key, reg);
        reg
    }

    /// The value of a node that has a place in memory but is not there yet.
    pub fn fresh(&mut self, id: NodeId) -> Reg {
        let axes = self.pass.recurrence.graph.axes(id);
        let frame = self.frame_of(axes);
        let reg = self.compute(id, frame);
        self.frames[frame].memo.insert((id, self.copy_key(axes)), reg);
        reg
    }

    /// Computes a node at the present point.
    fn compute(&mut self, id: NodeId, frame: usize) -> Reg {
        let pass = self.pass;
        let rec = &pass.recurrence;
        let ty = self.ty;
        match rec.graph.node(id) {
            Node::Const(bits) => self.emit(frame, ty, Rhs::Const(f64::from_bits(*bits))),
            Node::Extent(axis) => self.emit(frame, ty, Rhs::Index(self.extent(*axis))),
            Node::Index(axis) => {
                let at = self.position(*axis);
                self.emit(frame, ty, Rhs::Index(at))
            }
            Node::Input { input, index, part } => {
                let (buf, ix) = self.input_ix(*input, index, *part, None);
                self.emit(frame, ty, Rhs::Load(buf, ix))
            }
            Node::State { state, when, index, part } => {
                let (buf, ix) = self.state_ix(Slot { state: *state, part: *part }, *when, index, None);
                self.emit(frame, ty, Rhs::Load(buf, ix))
            }
            Node::Op(op, xs) => {
                let args: Vec<Reg> = xs.iter().map(|&x| self.value(x)).collect();
                let ty = if op.is_comparison() { Ty::Bool } else { ty };
                self.emit(frame, ty, Rhs::Op(LoopOp::Math(*op), args))
            }
            Node::Reduce { op, axis, x } => {
                // Only fully unrolled code reaches this: elsewhere reductions are stored.
                let mut acc = None;
                for k in 0..self.known(*axis) {
                    let term = self.with_axis(*axis, Ix::Const(k), k, |b| b.value(*x));
                    let both = |b: &mut Self, a| b.emit(frame, ty, Rhs::Op(LoopOp::Math(reduce_op(*op)), vec![a, term]));
                    acc = Some(acc.map_or(term, |a| both(self, a)));
                }
                acc.unwrap_or_else(|| self.emit(frame, ty, Rhs::Const(reduce_identity(*op))))
            }
            Node::Shift { axis, by, x, fill } => self.shift(frame, *axis, i64::from(*by), *x, *fill),
            // A specialised recurrence has none; both branches are equal to the absent one.
            Node::Given { absent, .. } => self.value(*absent),
        }
    }

    /// `x` at the neighbouring position on `axis`, or `fill` at the open end.
    fn shift(&mut self, frame: usize, axis: AxisId, by: i64, x: NodeId, fill: NodeId) -> Reg {
        let at = self.position(axis);
        let n = self.known(axis);
        if let Ix::Const(k) = at {
            let from = k - by;
            if from < 0 || from >= n {
                return self.value(fill);
            }
            let copy = self.copy[axis.0 as usize];
            return self.with_axis(axis, Ix::Const(from), if copy >= 0 { copy - by } else { -1 }, |b| b.value(x));
        }
        let fill = self.value(fill);
        let rec = &self.pass.recurrence;
        let moved = Some((axis, at.clone() + Ix::Const(-by)));
        let (buf, ix) = match rec.graph.node(x) {
            Node::Input { input, index, part } => self.input_ix(*input, index, *part, moved),
            Node::State { state, when, index, part } => self.state_ix(Slot { state: *state, part: *part }, *when, index, moved),
            // The checker lets only reads be shifted.
            _ => return fill,
        };
        let reg = self.proc.reg(self.ty);
        let load = vec![Stmt::Set(reg, Rhs::Load(buf, ix))];
        let open = vec![Stmt::Set(reg, Rhs::Op(LoopOp::Copy, vec![fill]))];
        let stmt = if by > 0 {
            Stmt::If { lhs: at, rhs: Ix::Const(1), then: open, els: load }
        } else {
            Stmt::If { lhs: at, rhs: Ix::Const(n - 1), then: load, els: open }
        };
        self.frames[frame].stmts.push(stmt);
        reg
    }

    fn state_register(&self, slot: Slot, when: When, node: &Node) -> Option<Reg> {
        let Node::State { index, .. } = node else { return None };
        let declared = &self.pass.recurrence.state(slot.state).axes;
        // The copies at which the state is read, in the order of its own axes.
        let mut key: Vec<(AxisId, i64)> = Vec::new();
        for (&own, i) in declared.iter().zip(index) {
            let copy = self.copy[i.axis().0 as usize];
            if copy < 0 && i.axis() != own {
                return None;
            }
            key.push((own, copy));
        }
        key.sort_unstable();
        let key = key.into_iter().map(|(_, k)| k).filter(|&k| k >= 0).collect();
        self.state_regs.get(&(slot, when, key)).copied()
    }

    /// Where an axis stands.
    pub fn position(&self, axis: AxisId) -> Ix {
        self.at[axis.0 as usize].clone().unwrap_or(Ix::Const(0))
    }

    fn coordinate(&mut self, index: AxisIndex, moved: Option<&(AxisId, Ix)>) -> Ix {
        let at = |b: &Self, axis: AxisId| match moved {
            Some((a, ix)) if *a == axis => ix.clone(),
            _ => b.position(axis),
        };
        match index {
            AxisIndex::At(axis) => at(self, axis),
            AxisIndex::Group { of, groups } => {
                let size = self.extent(of) / self.extent(groups);
                let lane = Some(of) == self.pass.structure.lane && self.lanes > 1;
                // The plan has made sure that a block of lanes lies in one group.
                let position = match (lane, self.first) {
                    (true, Some(first)) => Ix::Var(first) + Ix::Const(self.copy[of.0 as usize].max(0) * i64::from(self.lanes)),
                    _ => at(self, of),
                };
                if let Ix::Const(_) = position.clone() / size.clone() {
                    return position / size;
                }
                let frame = if lane { 0 } else { self.frame_of(AxisSet::of(of)) };
                let key = (of, groups, self.copy[of.0 as usize]);
                if let Some(ix) = self.frames[frame].groups.get(&key) {
                    return ix.clone();
                }
                let var = self.proc.var(self.pass.recurrence.axis_name(groups).to_lowercase());
                self.frames[frame].stmts.push(Stmt::Let(var, position / size));
                self.frames[frame].groups.insert(key, Ix::Var(var));
                Ix::Var(var)
            }
        }
    }

    fn flat(&mut self, dims: &[(AxisId, AxisIndex)], complex: Option<Part>, moved: Option<&(AxisId, Ix)>, start: Ix) -> Ix {
        let mut ix = start;
        for &(declared, index) in dims {
            ix = ix * self.extent(declared) + self.coordinate(index, moved);
        }
        match complex {
            Some(part) => ix * Ix::Const(2) + Ix::Const(i64::from(part == Part::Im)),
            None => ix,
        }
    }

    fn input_ix(&mut self, input: InputId, index: &[AxisIndex], part: Part, moved: Option<(AxisId, Ix)>) -> (Buf, Ix) {
        let decl = &self.pass.recurrence.inputs[input.0 as usize];
        let dims: Vec<_> = decl.axes.iter().copied().zip(index.iter().copied()).collect();
        let ix = self.flat(&dims, decl.complex.then_some(part), moved.as_ref(), Ix::Const(0));
        (self.inputs[input.0 as usize].unwrap_or(Buf(0)), ix)
    }

    /// The flat index of a state's element, from the caller's tensor of it.
    fn outer_state_ix(&mut self, slot: Slot) -> Ix {
        let decl = self.pass.recurrence.state(slot.state);
        let dims: Vec<_> = decl.axes.iter().map(|&a| (a, AxisIndex::At(a))).collect();
        let start = self.chunk.clone().unwrap_or(Ix::Const(0));
        self.flat(&dims, decl.complex.then_some(slot.part), None, start)
    }

    /// A state's value before the first step, at the present point, in the innermost loop.
    pub fn load_initial(&mut self, slot: Slot) -> Reg {
        let ix = self.outer_state_ix(slot);
        let decl = self.pass.recurrence.state(slot.state);
        match self.initial[slot.state.0 as usize] {
            Some(buf) => self.set(self.ty, Rhs::Load(buf, ix)),
            None => self.set(self.ty, Rhs::Const(if slot.part == Part::Im { 0.0 } else { decl.init })),
        }
    }

    /// Stores a state's value after the last step, if the caller wants it.
    pub fn store_last(&mut self, slot: Slot, value: Reg) {
        if let Some(buf) = self.last[slot.state.0 as usize] {
            let ix = self.outer_state_ix(slot);
            self.stmt(Stmt::Store(buf, ix, value));
        }
    }
    /// Whether a state's last value is wanted.
    pub fn wants_last(&self, state: StateId) -> bool {
        self.last[state.0 as usize].is_some()
    }

    /// Stores one half of an output at the present point.
    pub fn store_output(&mut self, output: usize, part: Part, value: Reg) {
        let decl = &self.pass.recurrence.outputs[output];
        let dims: Vec<_> = decl.axes.iter().map(|&a| (a, AxisIndex::At(a))).collect();
        let ix = self.flat(&dims, decl.complex.then_some(part), None, Ix::Const(0));
        let buf = self.outputs[output];
        self.stmt(Stmt::Store(buf, ix, value));
    }

    /// New scratch memory for a value over `axes`.
    pub fn scratch(&mut self, name: &str, axes: &[AxisId], laned: bool, steps: Option<i64>) -> Stored {
        let width = if laned { i64::from(self.lanes * self.vectors) } else { 1 };
        let points = axes.iter().map(|&a| self.known(a)).product::<i64>();
        let len = Ix::Const(points * width * steps.unwrap_or(1));
        let dtype = if self.ty == Ty::F64 { Dtype::F64 } else { Dtype::F32 };
        let name = format!("{name}{}", self.names);
        self.names += 1;
        self.proc.buffers.push(BufferDecl { name, role: Role::Scratch, dtype, len });
        let buf = Buf(self.proc.buffers.len() as u32 - 1);
        Stored { buf, timed: steps.is_some(), axes: axes.to_vec(), laned }
    }

    /// Whether values over `axes` differ between the lanes of a block.
    pub fn laned(&self, axes: AxisSet) -> bool {
        self.first.is_some() && self.pass.structure.lane.is_some_and(|a| axes.contains(a))
    }

    /// The flat index of a stored value at the present point, some axes standing elsewhere.
    pub fn stored_ix(&self, stored: &Stored, moved: &[(AxisId, Ix)]) -> Ix {
        let mut ix = if stored.timed { self.local.clone() } else { Ix::Const(0) };
        for &axis in &stored.axes {
            let at = moved.iter().find(|(a, _)| *a == axis).map_or_else(|| self.position(axis), |(_, ix)| ix.clone());
            ix = ix * self.extent(axis) + at;
        }
        if stored.laned {
            let vector = self.pass.structure.lane.map_or(0, |a| self.copy[a.0 as usize].max(0));
            let lane = self.lane_var.map_or(Ix::Const(0), Ix::Var);
            ix = ix * Ix::Const(i64::from(self.lanes * self.vectors)) + lane + Ix::Const(vector * i64::from(self.lanes));
        }
        ix
    }

    fn state_ix(&mut self, slot: Slot, when: When, index: &[AxisIndex], moved: Option<(AxisId, Ix)>) -> (Buf, Ix) {
        let declared = &self.pass.recurrence.state(slot.state).axes;
        let stored = self.state_bufs.get(&(slot, when)).or_else(|| self.state_bufs.get(&(slot, When::Prev)));
        let Some(stored) = stored.cloned() else { return (Buf(0), Ix::Const(0)) };
        let mut places = Vec::new();
        for (&own, &i) in declared.iter().zip(index) {
            places.push((own, self.coordinate(i, moved.as_ref())));
        }
        (stored.buf, self.stored_ix(&stored, &places))
    }
}

/// The operation that combines two partial results.
pub(super) fn reduce_op(op: ReduceOp) -> selscan_dsl::Op {
    match op {
        ReduceOp::Sum => selscan_dsl::Op::Add,
        ReduceOp::Max => selscan_dsl::Op::Max,
    }
}

/// The result over an empty axis.
pub(super) fn reduce_identity(op: ReduceOp) -> f64 {
    match op {
        ReduceOp::Sum => 0.0,
        ReduceOp::Max => f64::NEG_INFINITY,
    }
}
