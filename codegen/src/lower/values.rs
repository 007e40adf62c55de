//! Nodes as registers: each value emitted once, in the outermost open loop that binds all of its axes.

use selscan_dsl::{AxisId, AxisSet, Node, NodeId, ReduceOp, When};

use super::builder::{Builder, Slot};
use crate::dtype::Ty;
use crate::loop_ir::{Ix, LoopOp, Reg, Rhs, Stmt};

/// A value's register and the open loop that holds it: what reads the value cannot stand further out.
#[derive(Clone, Copy)]
struct Placed {
    reg: Reg,
    frame: usize,
}

impl Builder<'_> {
    /// The value of a node at the present point.
    pub fn value(&mut self, id: NodeId) -> Reg {
        self.placed(id).reg
    }

    /// The value of a node that has a place in memory but is not there yet.
    pub fn fresh(&mut self, id: NodeId) -> Reg {
        let axes = self.pass.recurrence.graph.axes(id);
        let placed = self.compute(id);
        self.keep(id, axes, placed).reg
    }

    fn placed(&mut self, id: NodeId) -> Placed {
        let pass = self.pass;
        let graph = &pass.recurrence.graph;
        let axes = graph.axes(id);
        if let node @ Node::State {
            state, when, part, ..
        } = graph.node(id)
        {
            let slot = Slot {
                state: *state,
                part: *part,
            };
            if let Some(reg) = self.state_register(slot, *when, node) {
                return Placed {
                    reg,
                    frame: self.frame_of(axes),
                };
            }
        }
        let key = (id, self.copy_key(axes));
        let known = self.frames.iter().enumerate();
        if let Some((frame, &reg)) = known
            .filter_map(|(k, f)| Some((k, f.memo.get(&key)?)))
            .next()
        {
            return Placed { reg, frame };
        }
        let placed = match self.stored.get(&id).cloned() {
            Some(stored) => {
                let frame = self.frame_of(axes).max(self.base);
                let ix = self.stored_ix(&stored, &[]);
                Placed {
                    reg: self.emit(frame, self.ty, Rhs::Load(stored.buf, ix)),
                    frame,
                }
            }
            None => self.compute(id),
        };
        self.keep(id, axes, placed)
    }

    /// Remembers a value for as long as its point stands, even where it was computed further out.
    fn keep(&mut self, id: NodeId, axes: AxisSet, placed: Placed) -> Placed {
        let frame = placed.frame.max(self.frame_of(axes));
        let key = (id, self.copy_key(axes));
        self.frames[frame].memo.insert(key, placed.reg);
        Placed { frame, ..placed }
    }

    /// Computes a node at the present point.
    fn compute(&mut self, id: NodeId) -> Placed {
        let pass = self.pass;
        let rec = &pass.recurrence;
        let ty = self.ty;
        let frame = self.frame_of(rec.graph.axes(id));
        let at = |reg, frame| Placed { reg, frame };
        match rec.graph.node(id) {
            Node::Const(bits) => at(
                self.emit(frame, ty, Rhs::Const(f64::from_bits(*bits))),
                frame,
            ),
            Node::Extent(axis) => at(self.emit(frame, ty, Rhs::Index(self.extent(*axis))), frame),
            Node::Index(axis) => {
                let position = self.position(*axis);
                at(self.emit(frame, ty, Rhs::Index(position)), frame)
            }
            Node::Input { input, index, part } => {
                let shared = self.shared_ix(*input);
                let (buf, ix) = shared.unwrap_or_else(|| self.input_ix(*input, index, *part, None));
                at(self.emit(frame, ty, Rhs::Load(buf, ix)), frame)
            }
            Node::State {
                state,
                when,
                index,
                part,
            } => {
                let slot = Slot {
                    state: *state,
                    part: *part,
                };
                let (buf, ix) = self.state_ix(slot, *when, index, None);
                at(self.emit(frame, ty, Rhs::Load(buf, ix)), frame)
            }
            Node::Op(op, xs) => {
                let args: Vec<Placed> = xs.iter().map(|&x| self.placed(x)).collect();
                let frame = args.iter().fold(frame, |k, x| k.max(x.frame));
                let ty = if op.is_comparison() { Ty::Bool } else { ty };
                let args = args.into_iter().map(|x| x.reg).collect();
                at(
                    self.emit(frame, ty, Rhs::Op(LoopOp::Math(*op), args)),
                    frame,
                )
            }
            Node::Reduce { op, axis, x } => {
                // Only fully unrolled code reaches this: elsewhere reductions are stored.
                let mut sum = self.reduced(*op, *axis, *x, frame);
                if self.shared == Some(*axis) {
                    // Every thread has a part of the points: the parts meet in a butterfly.
                    let frame = sum.frame.max(self.base);
                    let mut far = self.pass.schedule.warp / 2;
                    while far > 0 {
                        let other = Rhs::Op(LoopOp::ShuffleXor(far as u8), vec![sum.reg]);
                        let other = self.emit(frame, ty, other);
                        let both = Rhs::Op(LoopOp::Math(reduce_op(*op)), vec![sum.reg, other]);
                        sum = at(self.emit(frame, ty, both), frame);
                        far /= 2;
                    }
                }
                sum
            }
            Node::Shift { axis, by, x, fill } => {
                self.shift(frame, *axis, i64::from(*by), *x, *fill)
            }
            // A specialised recurrence has none; both branches are equal to the absent one.
            Node::Given { absent, .. } => self.placed(*absent),
        }
    }

    /// The reduction of `x` over this thread's points of an axis.
    pub fn part(&mut self, op: ReduceOp, axis: AxisId, x: NodeId) -> Reg {
        let frame = self.frame_of(self.pass.recurrence.graph.axes(x).without(axis));
        self.reduced(op, axis, x, frame).reg
    }

    fn reduced(&mut self, op: ReduceOp, axis: AxisId, x: NodeId, frame: usize) -> Placed {
        let mut sum: Option<Placed> = None;
        let (own, first) = self.own_points(axis);
        // Where threads share points elsewhere, all of them have other names than a thread's own.
        let apart = self.pass.retraced > 0 && self.shared != Some(axis);
        let name = if apart { self.known(axis) } else { 0 };
        for k in 0..own {
            let at = first.clone() + Ix::Const(k);
            let term = self.with_axis(axis, at, name + k, |b| b.placed(x));
            sum = Some(match sum {
                None => term,
                Some(sum) => {
                    let frame = sum.frame.max(term.frame);
                    let both = Rhs::Op(LoopOp::Math(reduce_op(op)), vec![sum.reg, term.reg]);
                    let reg = self.emit(frame, self.ty, both);
                    Placed { reg, frame }
                }
            });
        }
        sum.unwrap_or_else(|| Placed {
            reg: self.emit(frame, self.ty, Rhs::Const(reduce_identity(op))),
            frame,
        })
    }

    /// `x` at the neighbouring position on `axis`, or `fill` at the open end.
    fn shift(&mut self, frame: usize, axis: AxisId, by: i64, x: NodeId, fill: NodeId) -> Placed {
        let at = self.position(axis);
        let n = self.known(axis);
        if let Ix::Const(k) = at {
            let from = k - by;
            if from < 0 || from >= n {
                return self.placed(fill);
            }
            let copy = self.copy[axis.0 as usize];
            return self.with_axis(
                axis,
                Ix::Const(from),
                if copy >= 0 { copy - by } else { -1 },
                |b| b.placed(x),
            );
        }
        let fill = self.placed(fill);
        let frame = frame.max(fill.frame);
        let rec = &self.pass.recurrence;
        let moved = Some((axis, at.clone() + Ix::Const(-by)));
        let (buf, ix) = match rec.graph.node(x) {
            Node::Input { input, index, part } => self.input_ix(*input, index, *part, moved),
            Node::State {
                state,
                when,
                index,
                part,
            } => self.state_ix(
                Slot {
                    state: *state,
                    part: *part,
                },
                *when,
                index,
                moved,
            ),
            // The checker lets only reads be shifted.
            _ => return fill,
        };
        let reg = self.proc.reg(self.ty);
        let load = vec![Stmt::Set(reg, Rhs::Load(buf, ix))];
        let open = vec![Stmt::Set(reg, Rhs::Op(LoopOp::Copy, vec![fill.reg]))];
        let stmt = if by > 0 {
            Stmt::If {
                lhs: at,
                rhs: Ix::Const(1),
                then: open,
                els: load,
            }
        } else {
            Stmt::If {
                lhs: at,
                rhs: Ix::Const(n - 1),
                then: load,
                els: open,
            }
        };
        self.frames[frame].stmts.push(stmt);
        Placed { reg, frame }
    }

    pub fn state_register(&self, slot: Slot, when: When, node: &Node) -> Option<Reg> {
        let Node::State { index, .. } = node else {
            return None;
        };
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
        let key = key
            .into_iter()
            .map(|(_, k)| k)
            .filter(|&k| k >= 0)
            .collect();
        self.state_regs.get(&(slot, when, key)).copied()
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
