//! Nodes as registers: each value emitted once, in the outermost open loop that binds all of its axes.

use selscan_dsl::{AxisId, Node, NodeId, ReduceOp, When};

use super::builder::{Builder, Slot};
use crate::dtype::Ty;
use crate::loop_ir::{Ix, LoopOp, Reg, Rhs, Stmt};

impl Builder<'_> {
    /// The value of a node at the present point.
    pub fn value(&mut self, id: NodeId) -> Reg {
        let pass = self.pass;
        let graph = &pass.recurrence.graph;
        let axes = graph.axes(id);
        let key = (id, self.copy_key(axes));
        let node = graph.node(id);
        if let Node::State {
            state, when, part, ..
        } = node
            && let Some(reg) = self.state_register(
                Slot {
                    state: *state,
                    part: *part,
                },
                *when,
                node,
            )
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
        let key = (id, self.copy_key(axes));
        self.frames[frame].memo.insert(key, reg);
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
            Node::State {
                state,
                when,
                index,
                part,
            } => {
                let (buf, ix) = self.state_ix(
                    Slot {
                        state: *state,
                        part: *part,
                    },
                    *when,
                    index,
                    None,
                );
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
                    let both = |b: &mut Self, a| {
                        b.emit(
                            frame,
                            ty,
                            Rhs::Op(LoopOp::Math(reduce_op(*op)), vec![a, term]),
                        )
                    };
                    acc = Some(acc.map_or(term, |a| both(self, a)));
                }
                acc.unwrap_or_else(|| self.emit(frame, ty, Rhs::Const(reduce_identity(*op))))
            }
            Node::Shift { axis, by, x, fill } => {
                self.shift(frame, *axis, i64::from(*by), *x, *fill)
            }
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
            return self.with_axis(
                axis,
                Ix::Const(from),
                if copy >= 0 { copy - by } else { -1 },
                |b| b.value(x),
            );
        }
        let fill = self.value(fill);
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
        let open = vec![Stmt::Set(reg, Rhs::Op(LoopOp::Copy, vec![fill]))];
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
        reg
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
