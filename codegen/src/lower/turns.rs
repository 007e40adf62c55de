//! The turns of a block's loop over tiles of time: when what its threads share is put down, when it may be read, and where
//! they meet.
//!
//! In: the shared inputs ([`super::shared`]). Out: the statements of a tile's beginning and end.
//!
//! ```text
//! one tile at once         for tile { sync;  put down this tile;  sync;  send for the next;  read }
//! two in turn              put down the first;  for tile { sync;  put down the next, send for the one after;  read }
//! two in turn, parted      put down the first;  arrive;  for tile { wait;  put down the next, send …;  read;  arrive;  outputs }
//! ```
//! Parted, a thread goes on to what it reads of its own alone: its outputs, and in order=staged what the states need of the
//! next tile. It waits there for those that have not come as far.

use selscan_dsl::{Node, NodeId};

use super::builder::Builder;
use super::shared::{halves, steps};
use crate::loop_ir::{Ix, Stmt};
use crate::plan::Pass;
use crate::schedule::Order;

/// Whether a block that has its tiles in two halves is to go on between the end of one and the beginning of the next, and wait
/// there for those that have not come as far: nothing is read of what they share in between.
pub(super) fn parted(pass: &Pass) -> bool {
    let s = &pass.schedule;
    // Measured on sm_90: 3 to 8 % with 512 threads, which have a multiprocessor to themselves; code for fewer was slower.
    s.threads >= 512 && matches!(s.order, Order::Staged | Order::Scanned) && pass.retraced == 0
}

impl Builder<'_> {
    /// Before the loop over tiles, from step `lo` to `hi`, of which the one that begins at `first` comes first: what the first
    /// turn finds already there.
    pub fn begin_shared(&mut self, lo: &Ix, hi: &Ix, first: &Ix) {
        if self.raw_inputs.is_empty() {
            return;
        }
        // A loop that has no turn must not read what is not there.
        self.choice(
            lo.clone(),
            hi.clone(),
            |b| {
                b.copy_all(first);
                if b.in_halves() {
                    b.stmt(Stmt::Sync);
                    b.refill(first, first);
                }
                if b.arrives_early() {
                    b.stmt(Stmt::Arrive);
                }
            },
            |_| {},
        );
    }

    /// Where the block meets, and the threads of each of its items: from here on the tile that begins at step `start` is in shared memory.
    pub fn fill_shared(&mut self, start: &Ix) {
        if self.shared_inputs.is_empty() {
            return;
        }
        self.tile_start = start.clone();
        let next = self.next_tile(start);
        if self.arrives_early() {
            self.stmt(Stmt::Wait);
            // The threads of an item have put down for one another since they arrived. (They meet after the wait: before it, 4 %
            // longer, measured on sm_90.)
            if self.pass.schedule.order == Order::Staged {
                self.stmt(Stmt::Meet);
            }
        } else {
            self.stmt(Stmt::Sync);
        }
        if self.in_halves() {
            self.tile_half = self.half(start);
            let own = self.tile_half.clone();
            self.refill(&next, &(start.clone() + Ix::Const(steps(self.pass))));
            self.tile_half = own;
            return;
        }
        for (input, index, to) in self.sorted_shared() {
            self.fill(input, &index, to, start, None);
        }
        self.stmt(Stmt::Sync);
        // The next tile's elements are on their way while this one is run through.
        self.copy_all(&next);
    }

    /// Whether threads come to where the block meets before they wait there.
    fn arrives_early(&self) -> bool {
        parted(self.pass) && self.in_halves()
    }

    /// Whether values read inputs that the block shares, beside what those in `known` read.
    pub fn read_shared(&self, mut open: Vec<NodeId>, known: &[NodeId]) -> bool {
        let graph = &self.pass.recurrence.graph;
        let mut seen = vec![false; graph.len()];
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id.0 as usize], true) || known.contains(&id) {
                continue;
            }
            match graph.node(id) {
                Node::Input { input, .. } if self.shared_inputs.contains_key(input) => return true,
                node => open.extend(node.operands()),
            }
        }
        false
    }

    /// Runs `outputs`, by which the outputs are computed once the sums in `known` are. This thread has put down its part of the
    /// next tile; it is through with the present one before it or after it.
    pub fn leave_for(&mut self, known: &[NodeId], outputs: impl FnOnce(&mut Self)) {
        if !self.arrives_early() {
            return outputs(self);
        }
        let roots = self.pass.recurrence.outputs.iter();
        let roots = roots.flat_map(|o| [Some(o.value), o.value_im]).flatten();
        let late = self.read_shared(roots.collect(), known);
        if !late {
            self.stmt(Stmt::Arrive);
        }
        outputs(self);
        if late {
            self.stmt(Stmt::Arrive);
        }
    }

    /// Where the tile after the one that begins at `start` begins: before it, down to 0, where steps are traced back.
    fn next_tile(&self, start: &Ix) -> Ix {
        let span = Ix::Const(steps(self.pass));
        match self.pass.retraced {
            0 => start.clone() + span,
            _ => start.clone() - start.clone().min(span),
        }
    }

    /// Whether tiles lie in two halves in turn.
    pub fn in_halves(&self) -> bool {
        !self.shared_inputs.is_empty() && halves(self.pass, self.ty.storage()) == 2
    }

    /// Which half has the tile that begins at step `start`: 0 or 1.
    fn half(&mut self, start: &Ix) -> Ix {
        let half = (start.clone() / Ix::Const(steps(self.pass))).rest(2);
        if let Ix::Const(_) = half {
            return half;
        }
        let var = self.proc.var("half");
        self.stmt(Stmt::Let(var, half));
        Ix::Var(var)
    }

    /// Puts the tile that begins at step `start`, which has arrived, into the half of the one at `place`; the one after it is on
    /// its way from then on. Each thread reads what has arrived in a place before it sends for what comes there next.
    fn refill(&mut self, start: &Ix, place: &Ix) {
        self.tile_half = self.half(place);
        let after = self.next_tile(start);
        for (input, index, to) in self.sorted_shared() {
            self.fill(input, &index, to, start, Some(&after));
        }
    }
}
