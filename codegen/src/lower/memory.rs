//! Where things lie: flat indices of tensors (row-major, in the order of their declared axes; complex elements as
//! pairs) and of scratch memory.

use selscan_dsl::{AxisId, AxisIndex, AxisSet, InputId, Node, NodeId, Part, StateId, When};

use super::builder::{Builder, Slot, Stored};
use crate::loop_ir::{Buf, BufferDecl, Ix, Reg, Rhs, Role, Stmt};

/// Banks of a GPU's shared memory.
const BANKS: i64 = 32;

/// Elements after which a row that is loaded as one may begin: 16 bytes of the smallest type of arithmetic.
const ROW: i64 = 4;

impl Builder<'_> {
    /// Where an axis stands.
    pub fn position(&self, axis: AxisId) -> Ix {
        self.at[axis.0 as usize].clone().unwrap_or(Ix::Const(0))
    }

    pub fn coordinate(&mut self, index: AxisIndex, moved: Option<&(AxisId, Ix)>) -> Ix {
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
                    (true, Some(first)) => {
                        Ix::Var(first)
                            + Ix::Const(self.copy[of.0 as usize].max(0) * i64::from(self.lanes))
                    }
                    _ => at(self, of),
                };
                let group = position / size;
                // An index variable is the same for all threads of an item.
                if matches!(group, Ix::Const(_)) || self.own.is_some() {
                    return group;
                }
                let frame = if lane {
                    0
                } else {
                    self.frame_of(AxisSet::of(of))
                };
                let key = (of, groups, self.copy[of.0 as usize]);
                if let Some(ix) = self.frames[frame].groups.get(&key) {
                    return ix.clone();
                }
                let var = self
                    .proc
                    .var(self.pass.recurrence.axis_name(groups).to_lowercase());
                self.frames[frame].stmts.push(Stmt::Let(var, group));
                self.frames[frame].groups.insert(key, Ix::Var(var));
                Ix::Var(var)
            }
        }
    }

    pub fn flat(
        &mut self,
        dims: &[(AxisId, AxisIndex)],
        complex: Option<Part>,
        moved: Option<&(AxisId, Ix)>,
        start: Ix,
    ) -> Ix {
        let mut ix = start;
        for &(declared, index) in dims {
            ix = ix * self.extent(declared) + self.coordinate(index, moved);
        }
        match complex {
            Some(part) => ix * Ix::Const(2) + Ix::Const(i64::from(part == Part::Im)),
            None => ix,
        }
    }

    pub fn input_ix(
        &mut self,
        input: InputId,
        index: &[AxisIndex],
        part: Part,
        moved: Option<(AxisId, Ix)>,
    ) -> (Buf, Ix) {
        if let Some(kept) = self.kept_ix(input, index, part, moved.as_ref()) {
            return kept;
        }
        let decl = &self.pass.recurrence.inputs[input.0 as usize];
        let dims: Vec<_> = decl
            .axes
            .iter()
            .copied()
            .zip(index.iter().copied())
            .collect();
        let ix = self.flat(
            &dims,
            decl.complex.then_some(part),
            moved.as_ref(),
            Ix::Const(0),
        );
        (self.inputs[input.0 as usize].unwrap_or(Buf(0)), ix)
    }

    /// The flat index of a state's element in a tensor of it, or in the `start`-th of several.
    pub fn outer_state_ix(&mut self, slot: Slot, start: Ix) -> Ix {
        let decl = self.pass.recurrence.state(slot.state);
        let dims: Vec<_> = decl.axes.iter().map(|&a| (a, AxisIndex::At(a))).collect();
        self.flat(&dims, decl.complex.then_some(slot.part), None, start)
    }

    /// The chunk of time that this item runs, where chunks have states of their own in memory.
    fn own_chunk(&self) -> Ix {
        let kept = self.chunk.clone().filter(|_| self.pass.reach == 0);
        kept.unwrap_or(Ix::Const(0))
    }

    /// A state's value before the first step, at the present point, in the innermost loop.
    pub fn load_initial(&mut self, slot: Slot) -> Reg {
        let ix = self.outer_state_ix(slot, self.own_chunk());
        let decl = self.pass.recurrence.state(slot.state);
        match self.initial[slot.state.0 as usize] {
            Some(buf) => self.set(self.ty, Rhs::Load(buf, ix)),
            None => self.set(
                self.ty,
                Rhs::Const(if slot.part == Part::Im {
                    0.0
                } else {
                    decl.init
                }),
            ),
        }
    }

    /// Stores a state's value after the last step, if the caller wants it.
    pub fn store_last(&mut self, slot: Slot, value: Reg) {
        if let Some(buf) = self.last[slot.state.0 as usize] {
            let ix = self.outer_state_ix(slot, self.own_chunk());
            let axes = &self.pass.recurrence.state(slot.state).axes;
            if self.pass.reach == 0 {
                return self.store(axes, Stmt::Store(buf, ix, value));
            }
            // Of chunks without states in memory the last one has the last.
            let (_, to) = self.own_time();
            let all = self.extent(self.pass.recurrence.time);
            self.choice(
                all + Ix::Const(-1),
                to,
                |b| b.store(axes, Stmt::Store(buf, ix, value)),
                |_| {},
            );
        }
    }
    /// Whether a state's last value is wanted.
    pub fn wants_last(&self, state: StateId) -> bool {
        self.last[state.0 as usize].is_some()
    }

    /// Stores one half of an output at the present point.
    pub fn store_output(&mut self, output: usize, part: Part, value: Reg) {
        if let Some((buf, ix)) = self.keep_ix(output, part) {
            return self.stmt(Stmt::Store(buf, ix, value));
        }
        if self.is_summed(output) {
            return self.store_summed(output, part, value);
        }
        let decl = &self.pass.recurrence.outputs[output];
        let dims: Vec<_> = decl.axes.iter().map(|&a| (a, AxisIndex::At(a))).collect();
        let ix = self.flat(&dims, decl.complex.then_some(part), None, Ix::Const(0));
        let buf = self.outputs[output];
        self.store(&decl.axes, Stmt::Store(buf, ix, value));
    }

    /// New scratch memory for a value over `axes`.
    pub fn scratch(
        &mut self,
        name: &str,
        axes: &[AxisId],
        laned: bool,
        steps: Option<i64>,
    ) -> Stored {
        let width = if laned {
            self.own_lanes() * i64::from(self.vectors)
        } else {
            1
        };
        let (row, rows) = match axes.split_last() {
            Some((&last, outer)) => (self.known(last), outer),
            None => (1, axes),
        };
        let rows = rows.iter().map(|&a| self.known(a)).product::<i64>();
        // Threads that read the same places of several rows at once find them in other banks.
        let row = match self.is_together() && rows > 1 && row % BANKS == 0 {
            true => row + BANKS / 4,
            false => row,
        };
        let mut len = rows * row * width * steps.unwrap_or(1);
        if self.is_together() {
            // The next item's begins where rows do.
            len += (-len).rem_euclid(ROW);
        }
        let len = Ix::Const(len);
        let dtype = self.ty.storage();
        let name = format!("{name}{}", self.names);
        self.names += 1;
        self.proc.buffers.push(BufferDecl {
            name,
            role: match self.is_together() {
                true => Role::Exchange,
                false => Role::Scratch,
            },
            dtype,
            len,
        });
        let buf = Buf(self.proc.buffers.len() as u32 - 1);
        Stored {
            buf,
            timed: steps.is_some(),
            axes: axes.to_vec(),
            row,
            laned,
        }
    }

    /// New scratch memory for a state.
    pub fn state_scratch(&mut self, name: &str, state: StateId) -> Stored {
        let inner = self.state_inner(state);
        let axes = self.pass.recurrence.state(state).axes.iter().copied();
        let laned = self.laned(axes.collect());
        self.scratch(name, &inner, laned, None)
    }

    /// New scratch memory for a value, at each of so many steps if it varies in time.
    pub fn value_scratch(&mut self, id: NodeId, steps: Option<i64>) -> Stored {
        let rec = &self.pass.recurrence;
        let axes = rec.graph.axes(id);
        let inner = self.pass.structure.inner_axes(rec, id);
        let inner = self.memory_order(id, inner);
        let laned = self.laned(axes);
        let steps = steps.filter(|_| axes.contains(rec.time));
        self.scratch("v", &inner, laned, steps)
    }

    /// Some axes of a value in the order in which they lie in memory: where threads share out its points, that of the input it is
    /// made of with the most of them (neighbours there are neighbours here), or of the state that has the most.
    pub fn memory_order(&self, id: NodeId, axes: AxisSet) -> Vec<AxisId> {
        let mut order: Vec<AxisId> = axes.iter().collect();
        if !self.is_together() {
            return order;
        }
        let rec = &self.pass.recurrence;
        let of = |declared: &mut dyn Iterator<Item = AxisId>| -> Vec<AxisId> {
            declared.filter(|&axis| axes.contains(axis)).collect()
        };
        let reached = rec.graph.reachable(&[id]).into_iter();
        let inputs = reached.filter_map(|id| match rec.graph.node(id) {
            Node::Input { index, .. } => Some(of(&mut index.iter().map(|i| i.axis()))),
            _ => None,
        });
        let states = rec.states.iter();
        let states = states.map(|s| of(&mut s.axes.iter().copied()));
        let most = inputs.chain(states).filter(|axes| axes.len() > 1);
        // The first of those that have as many.
        let most = most.reduce(|a, b| if b.len() > a.len() { b } else { a });
        let most = most.unwrap_or_default();
        order.sort_by_key(|axis| most.iter().position(|a| a == axis));
        order
    }

    /// Whether values over `axes` differ between the lanes of a block.
    pub fn laned(&self, axes: AxisSet) -> bool {
        self.first.is_some() && self.pass.structure.lane.is_some_and(|a| axes.contains(a))
    }

    /// The flat index of a stored value at the present point, some axes standing elsewhere.
    pub fn stored_ix(&self, stored: &Stored, moved: &[(AxisId, Ix)]) -> Ix {
        let mut ix = if stored.timed {
            self.local.clone()
        } else {
            Ix::Const(0)
        };
        for (k, &axis) in stored.axes.iter().enumerate() {
            let at = moved
                .iter()
                .find(|(a, _)| *a == axis)
                .map_or_else(|| self.position(axis), |(_, ix)| ix.clone());
            let own = match k + 1 == stored.axes.len() {
                true => Ix::Const(stored.row),
                false => self.extent(axis),
            };
            ix = ix * own + at;
        }
        if stored.laned {
            let vector = self
                .pass
                .structure
                .lane
                .map_or(0, |a| self.copy[a.0 as usize].max(0));
            let own = self.own_lanes();
            let lane = self
                .lane_var
                .filter(|_| own > 1)
                .map_or(Ix::Const(0), Ix::Var);
            ix = ix * Ix::Const(own * i64::from(self.vectors)) + lane + Ix::Const(vector * own);
        }
        ix
    }

    /// Lanes that lie beside one another in scratch memory: a GPU's are threads, each with memory of its own.
    fn own_lanes(&self) -> i64 {
        if self.plan.wide {
            1
        } else {
            i64::from(self.lanes)
        }
    }

    /// Where a state lies in memory.
    fn stored_state(&self, slot: Slot, when: When) -> Option<&Stored> {
        let bufs = &self.state_bufs;
        bufs.get(&(slot, when))
            .or_else(|| bufs.get(&(slot, When::Prev)))
    }

    /// The element of a state at the present point.
    pub fn own_state_ix(&self, slot: Slot, when: When) -> (Buf, Ix) {
        match self.stored_state(slot, when) {
            Some(stored) => (stored.buf, self.stored_ix(stored, &[])),
            None => (Buf(0), Ix::Const(0)),
        }
    }

    /// The element of a state at an index.
    pub fn state_ix(
        &mut self,
        slot: Slot,
        when: When,
        index: &[AxisIndex],
        moved: Option<(AxisId, Ix)>,
    ) -> (Buf, Ix) {
        let declared = &self.pass.recurrence.state(slot.state).axes;
        let Some(stored) = self.stored_state(slot, when).cloned() else {
            return (Buf(0), Ix::Const(0));
        };
        let mut places = Vec::new();
        for (&own, &i) in declared.iter().zip(index) {
            places.push((own, self.coordinate(i, moved.as_ref())));
        }
        (stored.buf, self.stored_ix(&stored, &places))
    }
}
