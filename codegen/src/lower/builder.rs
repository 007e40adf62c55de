//! The builder of one work item: loops under construction, where each axis stands, and the values already computed.
//!
//! A value is emitted in the outermost open loop that binds all of its axes, once: hoisting is a property of the
//! builder, not a pass.

use rustc_hash::FxHashMap;
use selscan_dsl::{AxisId, AxisSet, InputId, Node, NodeId, Part, ReduceOp, StateId, When};

use super::chunks::Kept;
use super::together::{Own, only_where};
use crate::dtype::{Dtype, Ty};
use crate::ix::gcd;
use crate::loop_ir::{
    Buf, BufferDecl, Ix, LoopKind, LoopOp, Proc, Reg, Rhs, Role, Seats, Stmt, Var,
};
use crate::plan::{Pass, Plan, is_full};
use crate::schedule::Order;

/// A loop under construction.
pub(super) struct Frame {
    pub stmts: Vec<Stmt>,
    /// The axes bound in this loop and those around it.
    pub bound: AxisSet,
    pub memo: FxHashMap<(NodeId, Vec<i64>), Reg>,
    pub groups: FxHashMap<(AxisId, AxisId, i64), Ix>,
    pub head: Option<(Var, LoopKind, Ix, Ix, i64)>,
}

impl Frame {
    /// A frame without a loop.
    pub fn new(bound: AxisSet) -> Frame {
        Frame {
            stmts: vec![],
            bound,
            memo: FxHashMap::default(),
            groups: FxHashMap::default(),
            head: None,
        }
    }
}

/// A half of a state: the unit that has one register or buffer element a point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Slot {
    pub state: StateId,
    pub part: Part,
}

/// The halves of an element.
pub(super) fn parts_of(complex: bool) -> &'static [Part] {
    if complex {
        &[Part::Re, Part::Im]
    } else {
        &[Part::Real]
    }
}

/// Where a value lies in scratch memory: `[time in the tile][inner axes][lanes of the block]`.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub buf: Buf,
    pub timed: bool,
    pub axes: Vec<AxisId>,
    /// Elements from one row along the last of them to the next.
    pub row: i64,
    pub laned: bool,
}

/// The builder of one proc; [`Builder::begin`] starts an item body.
pub(super) struct Builder<'a> {
    pub plan: &'a Plan,
    pub pass: &'a Pass,
    pub proc: Proc,
    pub chunk: Option<Ix>,
    /// Whether outputs are left out for now.
    pub silent: bool,
    pub ty: Ty,
    pub inputs: Vec<Option<Buf>>,
    pub initial: Vec<Option<Buf>>,
    pub last: Vec<Option<Buf>>,
    pub outputs: Vec<Buf>,
    /// Where states are saved before each chunk of time, if they are.
    pub saved: Vec<Buf>,
    /// The states of a chunk that was run again: where this pass reads them.
    pub kept: FxHashMap<(InputId, Part), Kept>,
    /// The same where they are written: outputs of the pass that runs again.
    pub keeps: FxHashMap<(u32, Part), Kept>,
    /// Which part of the sums over the lane axis this item makes.
    pub part: Option<Ix>,
    /// By bit of a lane's number: whether it is set.
    pub lane_bits: FxHashMap<u32, Reg>,
    /// The position on each axis, where it is bound.
    pub at: Vec<Option<Ix>>,
    /// Which unrolled copy of each axis is being emitted; −1 where the axis is not unrolled.
    pub copy: Vec<i64>,
    grid: AxisSet,
    pub frames: Vec<Frame>,
    pub first: Option<Var>,
    pub lane_var: Option<Var>,
    /// A number that divides the count of steps.
    pub multiple_of_time: i64,
    /// Among the threads that share an item, or a point of its lane axis: which one this is.
    pub thread: Option<Ix>,
    /// Which point of its block's this thread has, where an item is a block.
    pub channel: Ix,
    /// The inputs that lie in shared memory, a tile of time at once.
    pub shared_inputs: FxHashMap<InputId, Buf>,
    /// Where the elements of their next tile arrive, as they are.
    pub raw_inputs: FxHashMap<InputId, Buf>,
    /// The first step of what is shared at once, and of the present tile in it.
    pub tile_start: Ix,
    pub tile_now: Ix,
    /// Which half of their memory has what is shared at present.
    pub tile_half: Ix,
    /// The axis whose points they share out.
    pub shared: Option<AxisId>,
    /// What this thread has of the nest under way, where threads share out those of each nest.
    pub own: Option<Own>,
    pub lanes: u32,
    pub vectors: u32,
    /// The step within the tile.
    pub local: Ix,
    pub stored: FxHashMap<NodeId, Stored>,
    /// Values of states in registers, by slot and copy.
    pub state_regs: FxHashMap<(Slot, When, Vec<i64>), Reg>,
    /// Buffers of states, by slot: the value before the step, and after it where that is apart.
    pub state_bufs: FxHashMap<(Slot, When), Stored>,
    pub names: u32,
    /// The loop in which an item's nests stand: nothing kept in memory is there outside of it.
    pub base: usize,
}

impl<'a> Builder<'a> {
    /// A pass's proc with nothing in it.
    pub fn empty(plan: &Plan, pass: &Pass) -> Proc {
        Proc {
            extents: plan.extent_names.clone(),
            multiples: plan.multiples.clone(),
            threads: pass.schedule.threads,
            resident: pass.schedule.resident,
            exp2: pass.schedule.exp2,
            seats: match pass.schedule.order {
                Order::Staged if pass.retraced == 0 => Seats::Pairs,
                Order::Scanned => Seats::Strided,
                _ => Seats::Neighbours,
            },
            full: pass.schedule.order == Order::Staged && is_full(pass, &plan.multiples),
            ..Proc::empty(&pass.name)
        }
    }

    /// The builder of a pass in a proc that may hold others.
    pub fn over(proc: Proc, plan: &'a Plan, pass: &'a Pass) -> Self {
        let rec = &pass.recurrence;
        let mut b = Builder {
            plan,
            pass,
            proc,
            chunk: None,
            silent: false,
            ty: plan.compute,
            inputs: vec![],
            initial: vec![],
            last: vec![],
            outputs: vec![],
            saved: vec![],
            kept: FxHashMap::default(),
            keeps: FxHashMap::default(),
            part: None,
            lane_bits: FxHashMap::default(),
            at: vec![None; rec.axes.len()],
            copy: vec![-1; rec.axes.len()],
            grid: AxisSet::EMPTY,
            frames: vec![],
            first: None,
            lane_var: None,
            // Of chunks any number may be left, but runs begin where they would if no states were saved on the way.
            multiple_of_time: match pass.schedule.order {
                // Chunks of time consist of whole ones of those that are run again.
                _ if pass.retraced > 0 => gcd(plan.multiple(rec.time), i64::from(pass.save)),
                Order::Staged => gcd(plan.multiple(rec.time), i64::from(pass.chunk.unwrap_or(0))),
                _ if pass.reach > 0 => gcd(
                    gcd(plan.multiple(rec.time), i64::from(pass.chunk.unwrap_or(0))),
                    i64::from(pass.reach),
                ),
                _ if pass.chunk.is_some() => 1,
                Order::Registers | Order::Tiled | Order::Stepped if pass.save > 0 => 1,
                _ => plan.multiple(rec.time),
            },
            thread: None,
            channel: Ix::Const(0),
            shared_inputs: FxHashMap::default(),
            raw_inputs: FxHashMap::default(),
            tile_start: Ix::Const(0),
            tile_now: Ix::Const(0),
            tile_half: Ix::Const(0),
            shared: None,
            own: None,
            lanes: 1,
            vectors: 1,
            local: Ix::Const(0),
            stored: FxHashMap::default(),
            state_regs: FxHashMap::default(),
            state_bufs: FxHashMap::default(),
            names: 0,
            base: 0,
        };
        let live = rec.graph.reachable(&rec.roots());
        let used = |i: usize| {
            live.iter().any(|&id| matches!(rec.graph.node(id), Node::Input { input: InputId(k), .. } if *k as usize == i))
                && !pass.replays.iter().flat_map(|r| &r.reads).any(|(input, ..)| input.0 as usize == i)
        };
        for (i, (decl, &role)) in rec.inputs.iter().zip(&pass.inputs).enumerate() {
            let buf = used(i).then(|| b.tensor(&decl.name, role, &decl.axes, decl.complex, None));
            b.inputs.push(buf);
        }
        // Windows of chunks are made anew, not kept.
        let kept = pass.chunk.filter(|_| pass.reach == 0);
        for (state, (initial, last)) in rec.states.iter().zip(pass.initial.iter().zip(&pass.last)) {
            let name = |what: &str| format!("{}_{what}", state.name);
            let buf = initial
                .map(|role| b.tensor(&name("initial"), role, &state.axes, state.complex, kept));
            b.initial.push(buf);
            let buf =
                last.map(|role| b.tensor(&name("last"), role, &state.axes, state.complex, kept));
            b.last.push(buf);
        }
        for (k, (decl, &role)) in rec.outputs.iter().zip(&pass.outputs).enumerate() {
            let buf = match role.0 {
                // What is kept of it is the item's own.
                Role::Scratch => Buf(0),
                _ if b.is_summed(k) => b.parts(&decl.name, role, &decl.axes, decl.complex),
                _ => b.tensor(&decl.name, role, &decl.axes, decl.complex, None),
            };
            b.outputs.push(buf);
        }
        for (state, &role) in rec.states.iter().zip(&pass.saved) {
            let name = format!("{}_saved", state.name);
            let buf = b.tensor(&name, role, &state.axes, state.complex, Some(pass.save));
            b.saved.push(buf);
        }
        b
    }

    /// A tensor over `axes`; several of them, where each so many steps have one.
    fn tensor(
        &mut self,
        name: &str,
        (role, dtype): (Role, Dtype),
        axes: &[AxisId],
        complex: bool,
        every: Option<u32>,
    ) -> Buf {
        let mut len = Ix::Const(if complex { 2 } else { 1 });
        if let Some(chunk) = every {
            len = len
                * self
                    .extent(self.pass.recurrence.time)
                    .div_ceil(i64::from(chunk));
        }
        let len = axes.iter().fold(len, |len, &a| len * self.extent(a));
        self.buffer(name, role, dtype, len)
    }

    /// A buffer; passes in one proc share what they both read.
    pub fn buffer(&mut self, name: &str, role: Role, dtype: Dtype, len: Ix) -> Buf {
        let own = |b: &BufferDecl| b.role == role && b.dtype == dtype;
        if let (Role::Input(_), Some(at)) = (role, self.proc.buffers.iter().position(own)) {
            return Buf(at as u32);
        }
        self.proc.buffers.push(BufferDecl {
            name: name.to_owned(),
            role,
            dtype,
            len,
        });
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
            Some(im) => vec![
                (
                    Slot {
                        state,
                        part: Part::Re,
                    },
                    decl.update,
                ),
                (
                    Slot {
                        state,
                        part: Part::Im,
                    },
                    im,
                ),
            ],
            None => vec![(
                Slot {
                    state,
                    part: Part::Real,
                },
                decl.update,
            )],
        }
    }
    /// Every slot in order, with the node of its next value.
    pub fn all_slots(&self) -> Vec<(Slot, NodeId)> {
        self.pass
            .recurrence
            .state_ids()
            .flat_map(|s| self.slots(s))
            .collect()
    }
    /// The inner axes of a state in memory order.
    pub fn state_inner(&self, state: StateId) -> Vec<AxisId> {
        let decl = self.pass.recurrence.state(state);
        decl.axes
            .iter()
            .copied()
            .filter(|&a| self.pass.structure.inner.contains(a))
            .collect()
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
        self.lane_bits.clear();
        self.state_regs.clear();
        self.state_bufs.clear();
        (self.first, self.lanes, self.vectors, self.lane_var) = (first, lanes, vectors, None);
        self.push(AxisSet::EMPTY, None);
        self.frames[0].bound = self.grid;
        if let (Some(first), Some(axis)) = (first, self.pass.structure.lane) {
            if self.pass.retraced > 0 {
                self.whole_block(first, axis);
                self.base = self.frames.len() - 1;
                return;
            }
            if lanes > 1 {
                let var = self.proc.var("lane");
                self.lane_var = Some(var);
                self.push(
                    AxisSet::of(axis),
                    Some((
                        var,
                        LoopKind::Lane(lanes),
                        Ix::Const(0),
                        Ix::Const(i64::from(lanes)),
                        1,
                    )),
                );
            } else {
                self.frames[0].bound = self.grid.with(axis);
            }
            let lane = self.lane_var.map_or(Ix::Const(0), Ix::Var);
            self.at[axis.0 as usize] = Some(Ix::Var(first) + lane);
        }
        self.share_out();
        self.base = self.frames.len() - 1;
    }

    /// Opens the loop over the threads that share the item, where there are several.
    fn share_out(&mut self) {
        let (warp, structure) = (self.pass.schedule.warp, &self.pass.structure);
        (self.thread, self.shared) = (None, None);
        if warp < 2 {
            return;
        }
        let var = self.proc.var("thread");
        let (lo, hi) = (Ix::Const(0), Ix::Const(i64::from(warp)));
        self.push(AxisSet::EMPTY, Some((var, LoopKind::Lane(warp), lo, hi, 1)));
        self.thread = Some(Ix::Var(var));
        self.shared = match self.pass.schedule.order {
            Order::Scanned => Some(self.pass.recurrence.time),
            Order::Registers | Order::Tiled | Order::Staged => structure.state_inner.iter().next(),
            Order::Stepped => None,
        };
    }

    /// Opens the loop over the threads of a block that is one item: `lanes` points of the lane axis, each with `warp`
    /// threads. Of the bits of a lane's number the lowest is its thread's, the next its point's, then the others of the
    /// thread, as [`Seats`] says why.
    fn whole_block(&mut self, first: Var, axis: AxisId) {
        let (points, warp) = (self.pass.schedule.lanes, self.pass.schedule.warp);
        let var = self.proc.var("lane");
        let (lo, hi) = (Ix::Const(0), Ix::Const(i64::from(points * warp)));
        let kind = LoopKind::Lane(points * warp);
        self.push(AxisSet::of(axis), Some((var, kind, lo, hi, 1)));
        let bits = |from: i64, count: i64| (Ix::Var(var) / Ix::Const(from)).rest(count);
        let warp = i64::from(warp);
        let own = bits(1, 2) + bits(4, warp / 2) * Ix::Const(2);
        let near = bits(2, 2) + bits(2 * warp, 16 / warp) * Ix::Const(2);
        self.channel = Ix::Var(var) / Ix::Const(32) * Ix::Const(32 / warp) + near;
        (self.lane_var, self.thread) = (Some(var), Some(own));
        self.shared = self.pass.structure.state_inner.iter().next();
        self.at[axis.0 as usize] = Some(Ix::Var(first) + self.channel.clone());
    }

    /// This thread's number among those that share what it has.
    pub fn thread_ix(&self) -> Ix {
        self.thread.clone().unwrap_or(Ix::Const(0))
    }

    /// `then` where lhs < rhs, else `els`.
    pub fn choice(
        &mut self,
        lhs: Ix,
        rhs: Ix,
        then: impl FnOnce(&mut Self),
        els: impl FnOnce(&mut Self),
    ) {
        let mut side = |body: &mut dyn FnMut(&mut Self)| {
            self.push(AxisSet::EMPTY, None);
            body(self);
            self.frames.pop().map(|f| f.stmts).unwrap_or_default()
        };
        let (mut then, mut els) = (Some(then), Some(els));
        let then = side(&mut |b| {
            if let Some(then) = then.take() {
                then(b);
            }
        });
        let els = side(&mut |b| {
            if let Some(els) = els.take() {
                els(b);
            }
        });
        self.stmt(Stmt::If {
            lhs,
            rhs,
            then,
            els,
        });
    }

    /// A store of a value over `axes`: by one of the threads that share the item, unless each has points of its own.
    pub fn store(&mut self, axes: &[AxisId], store: Stmt) {
        let own = self.shared.is_none_or(|axis| axes.contains(&axis));
        match self.thread.clone() {
            Some(thread) if !own => self.stmt(only_where(thread, 1, store)),
            _ => {
                let store = self.owned(store);
                self.stmt(store);
            }
        }
    }

    /// How many points of an unrolled axis this thread has, and the first of them.
    pub fn own_points(&self, axis: AxisId) -> (i64, Ix) {
        let all = self.known(axis);
        match self.thread.clone() {
            Some(thread) if self.shared == Some(axis) => {
                let own = all / i64::from(self.pass.schedule.warp);
                (own, thread * Ix::Const(own))
            }
            _ => (all, Ix::Const(0)),
        }
    }

    /// Closes every loop and gives the body.
    pub fn finish(&mut self) -> Vec<Stmt> {
        while self.frames.len() > 1 {
            self.pop();
        }
        self.frames.pop().map(|f| f.stmts).unwrap_or_default()
    }

    pub fn push(&mut self, axes: AxisSet, head: Option<(Var, LoopKind, Ix, Ix, i64)>) {
        let bound = self
            .frames
            .last()
            .map_or(AxisSet::EMPTY, |f| f.bound)
            .union(axes);
        self.frames.push(Frame {
            head,
            ..Frame::new(bound)
        });
    }

    pub fn pop(&mut self) {
        if let Some(frame) = self.frames.pop()
            && let Some(outer) = self.frames.last_mut()
        {
            match frame.head {
                Some((var, kind, lo, hi, step)) => outer.stmts.push(Stmt::For {
                    var,
                    kind,
                    lo,
                    hi,
                    step,
                    body: frame.stmts,
                }),
                None => outer.stmts.extend(frame.stmts),
            }
        }
    }

    /// Appends a statement to the innermost open loop.
    pub fn stmt(&mut self, stmt: Stmt) {
        if let Some(frame) = self.frames.last_mut() {
            frame.stmts.push(stmt);
        }
    }
    /// Appends statements to the innermost open loop.
    pub fn extend(&mut self, stmts: Vec<Stmt>) {
        stmts.into_iter().for_each(|stmt| self.stmt(stmt));
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
    /// A copy of a register in the innermost open loop.
    pub fn copied(&mut self, from: Reg) -> Reg {
        self.set(self.proc.ty(from), Rhs::Op(LoopOp::Copy, vec![from]))
    }
    /// `op(a, b)` for a reduction, in the innermost open loop.
    pub fn combine(&mut self, op: ReduceOp, a: Reg, b: Reg) -> Reg {
        self.set(
            self.ty,
            Rhs::Op(LoopOp::Math(super::values::reduce_op(op)), vec![a, b]),
        )
    }

    /// The copies that tell two values of a node apart.
    pub fn copy_key(&self, axes: AxisSet) -> Vec<i64> {
        axes.iter()
            .map(|a| self.copy[a.0 as usize])
            .filter(|&k| k >= 0)
            .collect()
    }

    pub fn frame_of(&self, axes: AxisSet) -> usize {
        self.frames
            .iter()
            .position(|f| axes.is_subset(f.bound))
            .unwrap_or(self.frames.len() - 1)
    }

    pub fn emit(&mut self, frame: usize, ty: Ty, rhs: Rhs) -> Reg {
        let reg = self.proc.reg(ty);
        self.frames[frame].stmts.push(Stmt::Set(reg, rhs));
        reg
    }
}
