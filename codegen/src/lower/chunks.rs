//! Chunks of time in one item: the states before each are saved, or what was saved is had back and its steps run again.
//!
//! ```text
//! saved[c]  = h before chunk c, c = t / K              a tensor [ceil(L / K), axes of h]
//! kept[t − c·K + 1] = h after step t                   the item's own memory, K + 1 rows; row 0 is saved[c]
//! ```
//! (For a recurrence that runs from the last step to the first, row t − c·K is h after step t.) In: a [`Builder`] whose pass
//! saves or replays. Out: loops over chunks, or what is done where one begins among the steps of another loop; reads of saved
//! states as reads of rows.

use rustc_hash::FxHashMap;
use selscan_dsl::{AxisId, AxisIndex, AxisSet, InputId, Part, When};

use super::builder::{Builder, Frame, Slot, Stored, parts_of};
use super::nest::again;
use crate::ix::gcd;
use crate::loop_ir::{Buf, Ix, Proc, Reg, Stmt};
use crate::plan::{Pass, Replay};

/// A chunk of time.
pub(super) struct Chunk {
    /// Which one.
    pub number: Ix,
    /// Its first moment, and the one after its last.
    pub from: Ix,
    pub to: Ix,
}

/// States of the steps of a chunk, in memory.
#[derive(Clone)]
pub(super) struct Kept {
    stored: Stored,
    /// Row of time t: t − from + shift.
    from: Ix,
    shift: i64,
}

impl<'a> Builder<'a> {
    /// An index in a variable of its own.
    pub fn named(&mut self, name: &str, ix: Ix) -> Ix {
        let var = self.proc.var(name);
        self.stmt(Stmt::Let(var, ix));
        Ix::Var(var)
    }

    /// A loop over the chunks of `size` steps, in the order in which the pass runs.
    pub fn each_chunk(&mut self, size: u32, body: impl FnOnce(&mut Self, Chunk)) {
        let size = i64::from(size);
        let (from, to) = self.own_time();
        let first = from / Ix::Const(size);
        let end = to.clone().div_ceil(size);
        let (lo, hi) = if self.chunk.is_some() {
            (
                self.named("first_chunk", first),
                self.named("end_chunk", end),
            )
        } else {
            (first, end)
        };
        let all = to;
        self.serial(
            "turn",
            AxisSet::EMPTY,
            lo.clone(),
            hi.clone(),
            1,
            |b, turn| {
                let number = if b.runs_back() {
                    (hi - turn) + lo + Ix::Const(-1)
                } else {
                    turn
                };
                let number = b.named("chunk", number);
                let from = b.named("from", number.clone() * Ix::Const(size));
                let to = b.named("to", (from.clone() + Ix::Const(size)).min(all));
                body(b, Chunk { number, from, to });
            },
        );
    }

    /// Runs `body` with the number of the chunk before which states are saved and that begins with step `first + k`, where
    /// one does; `first` is a multiple of `run`.
    pub fn at_chunk(
        &mut self,
        first: &Ix,
        (run, k): (i64, i64),
        body: impl FnOnce(&mut Self, &Ix),
    ) {
        let size = i64::from(self.pass.save);
        if self.saved.is_empty() {
            return;
        }
        if self.runs_back() {
            // A chunk begins with the last step of time, or where the one after it in time ends.
            let step = first.clone() + Ix::Const(k);
            let left = self.extent(self.pass.recurrence.time) - step.clone();
            let past = left.rest(size);
            let number = left.div_ceil(size) + Ix::Const(-1);
            return self.choice(past.min(step), Ix::Const(1), |b| body(b, &number), |_| {});
        }
        if k % gcd(size, run) != 0 {
            return;
        }
        let step = first.clone() + Ix::Const(k);
        let number = step.clone() / Ix::Const(size);
        if run % size == 0 {
            return body(self, &number);
        }
        let past = step - number.clone() * Ix::Const(size);
        self.choice(past, Ix::Const(1), |b| body(b, &number), |_| {});
    }

    /// Saves a state before a chunk. Threads that share an item have points or steps of their own.
    pub fn save(&mut self, slot: Slot, number: &Ix, value: Reg) {
        let ix = self.outer_state_ix(slot, number.clone());
        if let Some(&buf) = self.saved.get(slot.state.0 as usize) {
            self.stmt(Stmt::Store(buf, ix, value));
        }
    }

    /// Runs a chunk of what is replayed, then `body`, to which its states are there.
    pub fn replayed(&mut self, chunk: &Chunk, body: impl FnOnce(&mut Self)) {
        let pass = self.pass;
        for replay in &pass.replays {
            self.replay(replay, chunk);
        }
        body(self);
        self.kept.clear();
    }

    fn replay(&mut self, replay: &'a Replay, chunk: &Chunk) {
        let (pass, size) = (&replay.pass, self.pass.save);
        let mut inner = self.within(pass);
        inner.chunk = Some(chunk.number.clone());
        let back = inner.runs_back();
        let after = i64::from(!back);
        let mut kept = FxHashMap::default();
        for (k, decl) in pass.recurrence.outputs.iter().enumerate() {
            let axes: Vec<AxisId> = decl
                .axes
                .iter()
                .copied()
                .filter(|&a| pass.structure.inner.contains(a))
                .collect();
            let laned = inner.laned(decl.axes.iter().copied().collect());
            let parts = parts_of(decl.complex);
            for &part in parts {
                let stored = inner.scratch("kept", &axes, laned, Some(i64::from(size) + 1));
                kept.insert(
                    (k as u32, part),
                    Kept {
                        stored,
                        from: chunk.from.clone(),
                        shift: after,
                    },
                );
            }
        }
        inner.keeps = kept.clone();
        let (lo, hi) = inner.steps_of(chunk.from.clone(), chunk.to.clone());
        let first = if back {
            chunk.to.clone() - chunk.from.clone()
        } else {
            Ix::Const(0)
        };
        again(&mut inner, lo, hi, &first);
        self.without(inner);
        for &(input, output, when) in &replay.reads {
            for part in [Part::Real, Part::Re, Part::Im] {
                if let Some(own) = kept.get(&(output, part)) {
                    let shift = if when == When::Next { after } else { 1 - after };
                    self.kept.insert(
                        (input, part),
                        Kept {
                            shift,
                            ..own.clone()
                        },
                    );
                }
            }
        }
    }

    /// A builder of another pass at the place where this one is; it has the proc until [`Builder::without`].
    fn within(&mut self, pass: &'a Pass) -> Builder<'a> {
        let proc = std::mem::replace(&mut self.proc, Proc::empty(""));
        let mut inner = Builder::over(proc, self.plan, pass);
        let axes = inner.at.len();
        inner.at = self
            .at
            .iter()
            .cloned()
            .chain(std::iter::repeat(None))
            .take(axes)
            .collect();
        let bound = self
            .frames
            .get(self.base)
            .map_or(AxisSet::EMPTY, |f| f.bound);
        inner.frames = vec![Frame::new(bound)];
        (inner.first, inner.lane_var) = (self.first, self.lane_var);
        (inner.lanes, inner.vectors, inner.names) = (self.lanes, self.vectors, self.names);
        inner
    }

    /// Ends what [`Builder::within`] began.
    fn without(&mut self, mut inner: Builder<'a>) {
        let stmts = inner.finish();
        self.names = inner.names;
        self.proc = inner.proc;
        for stmt in stmts {
            self.stmt(stmt);
        }
    }

    /// Keeps a state before the first step of a chunk that is run again.
    pub fn keep_first(&mut self, slot: Slot, row: &Ix, value: Reg) {
        let outputs = &self.pass.recurrence.outputs;
        let name = &self.pass.recurrence.state(slot.state).name;
        let Some(k) = outputs.iter().position(|o| o.name == *name) else {
            return;
        };
        if let Some(kept) = self.keeps.get(&(k as u32, slot.part)).cloned() {
            let ix = self.row_ix(&kept, row.clone(), &[]);
            self.stmt(Stmt::Store(kept.stored.buf, ix, value));
        }
    }

    /// Where an output of what is run again is kept, at the present point.
    pub fn keep_ix(&mut self, output: usize, part: Part) -> Option<(Buf, Ix)> {
        let kept = self.keeps.get(&(output as u32, part))?.clone();
        let row = self.row(&kept, self.position(self.pass.recurrence.time));
        Some((kept.stored.buf, self.row_ix(&kept, row, &[])))
    }

    /// Where a saved state is kept, read at an index.
    pub fn kept_ix(
        &mut self,
        input: InputId,
        index: &[AxisIndex],
        part: Part,
        moved: Option<&(AxisId, Ix)>,
    ) -> Option<(Buf, Ix)> {
        let kept = self.kept.get(&(input, part))?.clone();
        let rec = &self.pass.recurrence;
        let mut places = Vec::new();
        for (&own, &i) in rec.input(input).axes.iter().zip(index) {
            places.push((own, self.coordinate(i, moved)));
        }
        let time = places.iter().find(|(axis, _)| *axis == rec.time);
        let row = self.row(&kept, time.map_or(Ix::Const(0), |(_, at)| at.clone()));
        Some((kept.stored.buf, self.row_ix(&kept, row, &places)))
    }

    fn row(&self, kept: &Kept, time: Ix) -> Ix {
        time - kept.from.clone() + Ix::Const(kept.shift)
    }

    fn row_ix(&mut self, kept: &Kept, row: Ix, places: &[(AxisId, Ix)]) -> Ix {
        let local = std::mem::replace(&mut self.local, row);
        let ix = self.stored_ix(&kept.stored, places);
        self.local = local;
        ix
    }
}
