//! Inputs that a block has in common, a tile of time at once in its shared memory.
//!
//! In: a pass of `share=1`. Out: which inputs are shared, the copies at a tile's start, and where an element lies then.
//! An input is shared that does not vary over the lane axis (so all threads of a block read the same) but over time.
//!
//! ```text
//! scanned     [inner points][T/u][threads of an item][u]    u of a thread's T steps are neighbours: no two threads of a
//!                                                           warp read the same bank
//! registers,  [steps of the tile][inner points]             as in memory
//! staged
//! ```
//! What is converted or turned over on its way arrives as it is, a tile ahead. When, is in [`super::turns`].

use selscan_dsl::{AxisId, AxisIndex, InputId, Node};

use super::builder::Builder;
use super::turns::parted;
use crate::backend::cuda::BARRIER_BYTES;
use crate::dtype::Dtype;
use crate::loop_ir::{Buf, BufferDecl, Ix, LoopKind, Reg, Rhs, Role, Stmt};
use crate::plan::Pass;
use crate::schedule::Order;

/// The inputs that a block has in common, each with how it is read: always so that a block reads the same, at its own axes or
/// at the group that the block's points of the lane axis are in.
fn readings(pass: &Pass) -> Vec<(InputId, Vec<AxisIndex>)> {
    let rec = &pass.recurrence;
    let mut reads: Vec<Vec<&[AxisIndex]>> = vec![Vec::new(); rec.inputs.len()];
    let mut shifted = vec![false; rec.inputs.len()];
    for id in rec.graph.reachable(&rec.roots()) {
        match rec.graph.node(id) {
            Node::Input { input, index, .. } => reads[input.0 as usize].push(index),
            Node::Shift { x, .. } => {
                if let Node::Input { input, .. } = rec.graph.node(*x) {
                    shifted[input.0 as usize] = true;
                }
            }
            _ => {}
        }
    }
    let same = |id: InputId| {
        let i = id.0 as usize;
        let decl = &rec.inputs[i];
        let varies = |axis: AxisId| decl.axes.contains(&axis);
        let lane = pass.structure.lane.is_some_and(varies);
        if shifted[i] || !varies(rec.time) || lane || decl.complex || !fits(pass, id) {
            return None;
        }
        let (&first, rest) = reads[i].split_first()?;
        let mut own = decl.axes.iter().zip(first);
        let same = own.all(|(&axis, &i)| match i {
            AxisIndex::At(a) => a == axis,
            AxisIndex::Group { of, groups } => {
                groups == axis && Some(of) == pass.structure.lane && is_whole(pass, of, groups)
            }
        });
        (same && rest.iter().all(|&index| index == first)).then(|| (id, first.to_vec()))
    };
    (0..rec.inputs.len() as u32)
        .filter_map(|i| same(InputId(i)))
        .collect()
}

/// Whether a group of the lane axis has whole blocks.
fn is_whole(pass: &Pass, of: AxisId, groups: AxisId) -> bool {
    let s = &pass.schedule;
    let block = i64::from(s.block * (s.threads / s.warp.max(1)).max(1));
    let (n, g) = (known(pass, of), known(pass, groups));
    let fixed = |axis: AxisId| matches!(pass.extents[axis.0 as usize], Ix::Const(_));
    fixed(of) && fixed(groups) && g > 0 && (n / g) % block == 0
}

/// Whether the order of the input's axes suits the loops: threads copy what is contiguous.
fn fits(pass: &Pass, input: InputId) -> bool {
    let rec = &pass.recurrence;
    let axes = &rec.inputs[input.0 as usize].axes;
    let time = axes.iter().position(|&a| a == rec.time);
    let inner = axes.iter().rposition(|&a| pass.structure.inner.contains(a));
    match pass.schedule.order {
        // Time-major, the inner axes last; or time last, turned over on the way.
        Order::Registers | Order::Staged if axes.last() == Some(&rec.time) => {
            pass.schedule.share >= 2
        }
        Order::Registers | Order::Staged => {
            let after = time.map(|t| &axes[t + 1..]);
            inner.is_some()
                && after.is_some_and(|a| a.iter().all(|&a| pass.structure.inner.contains(a)))
                && inner > time
        }
        _ => true,
    }
}

/// The inner axes of an input, in the order of memory.
fn inner(pass: &Pass, input: InputId) -> Vec<AxisId> {
    let axes = &pass.recurrence.inputs[input.0 as usize].axes;
    let inner = pass.structure.inner;
    axes.iter()
        .copied()
        .filter(|&a| inner.contains(a))
        .collect()
}

fn known(pass: &Pass, axis: AxisId) -> i64 {
    match pass.extents[axis.0 as usize] {
        Ix::Const(n) => n,
        _ => 1,
    }
}

/// Steps of a tile.
pub(super) fn steps(pass: &Pass) -> i64 {
    let s = &pass.schedule;
    match s.order {
        Order::Scanned => i64::from(s.tile * s.warp * s.tiles),
        Order::Staged => i64::from(s.tile * s.warp),
        _ => i64::from(s.tile),
    }
}

/// Elements of an input's tile.
fn elements(pass: &Pass, input: InputId) -> u64 {
    let inner = inner(pass, input);
    let points: i64 = inner.iter().map(|&a| known(pass, a)).product();
    (points * steps(pass)) as u64
}

/// The type of an input's tile: as in memory, or converted once for all threads.
fn stored(pass: &Pass, input: InputId, compute: Dtype) -> Dtype {
    let (_, dtype) = pass.inputs[input.0 as usize];
    if pass.schedule.share == 1 {
        dtype
    } else {
        compute
    }
}

/// Whether steps are neighbours in memory, but inner points in the tile.
fn turned(pass: &Pass, input: InputId) -> bool {
    let axes = &pass.recurrence.inputs[input.0 as usize].axes;
    axes.last() == Some(&pass.recurrence.time) && pass.schedule.order != Order::Scanned
}

/// Whether an input's tile arrives as it is before it is put down; else it goes to its place at once.
fn arrives(pass: &Pass, input: InputId, compute: Dtype) -> bool {
    let (_, dtype) = pass.inputs[input.0 as usize];
    pass.schedule.ahead > 0 && (stored(pass, input, compute) != dtype || turned(pass, input))
}

/// How many tiles of each input there are at once: two where all of them arrive before they are put down, unless tiles
/// are so long that their memory matters more than their meetings.
pub(super) fn halves(pass: &Pass, compute: Dtype) -> i64 {
    let arrive = |&(input, _): &(InputId, Vec<AxisIndex>)| arrives(pass, input, compute);
    let short = pass.schedule.order != Order::Scanned;
    if (short || pass.schedule.share == 3) && readings(pass).iter().all(arrive) {
        2
    } else {
        1
    }
}

/// The bytes of a block's tiles of inputs, and of what arrives for the next ones; 0 where nothing is shared.
pub(crate) fn tile_bytes(pass: &Pass, compute: Dtype) -> u64 {
    if pass.schedule.share == 0 {
        return 0;
    }
    let halves = halves(pass, compute) as usize;
    let bytes = |(input, _): (InputId, Vec<AxisIndex>)| {
        let (_, dtype) = pass.inputs[input.0 as usize];
        let arrives = arrives(pass, input, compute);
        let next = if arrives { dtype.bytes() } else { 0 };
        elements(pass, input) * (halves * stored(pass, input, compute).bytes() + next) as u64
    };
    let readings = readings(pass);
    let waits = halves == 2 && !readings.is_empty() && parted(pass);
    let barrier = if waits { BARRIER_BYTES } else { 0 };
    readings.into_iter().map(bytes).sum::<u64>() + u64::from(barrier)
}

/// How a tile of an input is copied: turn by turn, each some neighbours.
#[derive(Clone, Copy)]
struct Copying {
    /// Elements of a turn.
    count: i64,
    /// Whether they are neighbours in time; else along the inner axes.
    along_time: bool,
    /// Whether steps are neighbours in memory, but inner points in the tile.
    turned: bool,
    points: i64,
    steps: i64,
    /// Elements that are put down at once.
    wide: i64,
    /// Whether they are put down as they are.
    plain: bool,
}

impl Copying {
    /// The step within the tile and the inner point of a turn's first element.
    fn first(&self, turn: &Ix) -> (Ix, Ix) {
        let (count, points, steps) = (self.count, self.points, self.steps);
        if self.turned {
            // Threads that are neighbours put down inner points, which are neighbours there.
            let step = turn.clone() / Ix::Const(points) * Ix::Const(count);
            (step, turn.rest(points))
        } else if self.along_time {
            let units = steps / count;
            let step = turn.rest(units) * Ix::Const(count);
            (step, turn.clone() / Ix::Const(units))
        } else {
            let units = points / count;
            let point = turn.rest(units) * Ix::Const(count);
            (turn.clone() / Ix::Const(units), point)
        }
    }
}

/// The largest of 8, 4, 2, 1 elements, at most 16 bytes, that divides `n`.
fn unit(bytes: usize, n: i64) -> i64 {
    let fits = |u: &i64| n % u == 0 && *u as usize * bytes <= 16;
    [8, 4, 2].into_iter().find(fits).unwrap_or(1)
}

impl Builder<'_> {
    /// Gives the shared inputs their memory.
    pub fn open_shared(&mut self) {
        if self.pass.schedule.share == 0 {
            return;
        }
        let halves = halves(self.pass, self.ty.storage());
        for (input, _) in readings(self.pass) {
            if self.shared_inputs.contains_key(&input) {
                continue;
            }
            let dtype = stored(self.pass, input, self.ty.storage());
            let len = elements(self.pass, input);
            self.proc.buffers.push(BufferDecl {
                name: format!(
                    "{}_tile",
                    self.pass.recurrence.inputs[input.0 as usize].name
                ),
                role: Role::Shared,
                dtype,
                len: Ix::Const(halves * len as i64),
            });
            let buf = Buf(self.proc.buffers.len() as u32 - 1);
            self.shared_inputs.insert(input, buf);
            if arrives(self.pass, input, self.ty.storage()) {
                let decl = &self.pass.recurrence.inputs[input.0 as usize];
                self.proc.buffers.push(BufferDecl {
                    name: format!("{}_next", decl.name),
                    role: Role::Shared,
                    dtype: self.pass.inputs[input.0 as usize].1,
                    len: Ix::Const(len as i64),
                });
                let raw = Buf(self.proc.buffers.len() as u32 - 1);
                self.raw_inputs.insert(input, raw);
            }
        }
    }

    /// The shared inputs, how each is read, and its memory.
    pub(super) fn sorted_shared(&self) -> Vec<(InputId, Vec<AxisIndex>, Buf)> {
        let of = |(input, index)| Some((input, index, *self.shared_inputs.get(&input)?));
        readings(self.pass).into_iter().filter_map(of).collect()
    }

    pub(super) fn copy_all(&mut self, start: &Ix) {
        if self.raw_inputs.is_empty() {
            return;
        }
        for (input, index, to) in self.sorted_shared() {
            if let Some(&raw) = self.raw_inputs.get(&input) {
                self.copy_raw(input, &index, (to, raw), start);
            }
        }
    }

    /// Elements of a thread's run that are neighbours in shared memory.
    fn run_unit(&self, input: InputId) -> i64 {
        let dtype = stored(self.pass, input, self.ty.storage());
        unit(dtype.bytes(), i64::from(self.pass.schedule.tile))
    }

    /// Where a tile of the present half begins.
    fn base(&self, input: InputId) -> Ix {
        self.tile_half.clone() * Ix::Const(elements(self.pass, input) as i64)
    }

    /// Where an element of a tile lies in shared memory: its step in the tile, its inner point.
    fn place_in_tile(&self, input: InputId, step: &Ix, point: &Ix) -> Ix {
        let pass = self.pass;
        let base = self.base(input);
        if pass.schedule.order == Order::Scanned {
            let (unit, run) = (self.run_unit(input), i64::from(pass.schedule.tile));
            let tile = run * i64::from(pass.schedule.warp);
            let (number, step) = (step.clone() / Ix::Const(tile), step.rest(tile));
            let thread = step.clone() / Ix::Const(run);
            let within = step.rest(run);
            let points = number * Ix::Const(self.inner_points(input)) + point.clone();
            let group = points * Ix::Const(run / unit) + within.clone() / Ix::Const(unit);
            return base
                + (group * Ix::Const(i64::from(pass.schedule.warp)) + thread) * Ix::Const(unit)
                + within.rest(unit);
        }
        base + step.clone() * Ix::Const(self.inner_points(input)) + point.clone()
    }

    fn inner_points(&self, input: InputId) -> i64 {
        let inner = inner(self.pass, input);
        inner.iter().map(|&a| known(self.pass, a)).product()
    }

    /// How an input's tile is copied.
    fn copying(&self, input: InputId, to: Buf) -> Copying {
        let pass = self.pass;
        let rec = &pass.recurrence;
        let axes = &rec.inputs[input.0 as usize].axes;
        let (_, dtype) = pass.inputs[input.0 as usize];
        let inner = inner(pass, input);
        let points: i64 = inner.iter().map(|&a| known(pass, a)).product();
        let steps = steps(pass);
        let scanned = pass.schedule.order == Order::Scanned;
        let last = axes.last() == Some(&rec.time);
        // What one turn copies: neighbours along time, or along the inner axes, or a single element.
        let (count, along_time) = match (scanned, last) {
            (true, true) => (unit(dtype.bytes(), i64::from(pass.schedule.tile)), true),
            (true, false) => (1, true),
            (false, true) => {
                let whole = unit(dtype.bytes(), self.multiple_of_time);
                (whole.min(unit(dtype.bytes(), steps)), true)
            }
            (false, false) => {
                let fastest = inner.last().map_or(1, |&a| known(pass, a));
                (unit(dtype.bytes(), fastest), false)
            }
        };
        let turned = turned(pass, input);
        // What is turned over is put down one by one.
        let wide = if turned {
            1
        } else {
            unit(self.proc.buffer(to).dtype.bytes(), count)
        };
        Copying {
            count,
            along_time,
            turned,
            points,
            steps,
            wide,
            // What is turned round in time passes through registers.
            plain: self.proc.buffer(to).dtype == dtype
                && wide == count
                && !(along_time && count > 1 && self.runs_back()),
        }
    }

    /// Where an element of the tile that begins at `start` lies in the input.
    fn source(
        &mut self,
        (input, index): (InputId, &[AxisIndex]),
        how: &Copying,
        start: &Ix,
        (step, point): (&Ix, &Ix),
    ) -> Ix {
        let pass = self.pass;
        let rec = &pass.recurrence;
        // Beyond the end of time the last elements are copied once more.
        let (all, count) = (
            self.extent(rec.time),
            if how.along_time { how.count } else { 1 },
        );
        let first = start.clone() + step.clone();
        let at = match self.runs_back() {
            false => first.min(all - Ix::Const(count)),
            true => all.clone() - (first + Ix::Const(count)).min(all),
        };
        let mut places = vec![(rec.time, at)];
        let mut left = point.clone();
        for &axis in inner(pass, input).iter().rev() {
            let n = known(pass, axis);
            places.push((axis, left.rest(n)));
            left = left / Ix::Const(n);
        }
        let axes = &rec.inputs[input.0 as usize].axes;
        let mut from = Ix::Const(0);
        for (&axis, &index) in axes.iter().zip(index) {
            let place = places
                .iter()
                .find(|(a, _)| *a == axis)
                .map(|(_, ix)| ix.clone());
            let place = place.unwrap_or_else(|| self.coordinate(index, None));
            from = from * self.extent(axis) + place;
        }
        from
    }

    /// Each thread of the block copies its turns.
    fn team(&mut self, how: &Copying, body: impl FnOnce(&mut Self, Ix) -> Vec<Stmt>) {
        let var = self.proc.var("i");
        let body = body(self, Ix::Var(var));
        self.stmt(Stmt::For {
            var,
            kind: LoopKind::Team,
            lo: Ix::Const(0),
            hi: Ix::Const(how.points * how.steps / how.count),
            step: 1,
            body,
        });
    }

    /// Copies a tile's elements as they are, turn by turn.
    fn copy_raw(&mut self, input: InputId, index: &[AxisIndex], (to, raw): (Buf, Buf), start: &Ix) {
        let how = self.copying(input, to);
        let source = self.inputs[input.0 as usize].unwrap_or(Buf(0));
        self.team(&how, |b, turn| {
            let (step, point) = how.first(&turn);
            let from = b.source((input, index), &how, start, (&step, &point));
            let at = turn * Ix::Const(how.count);
            vec![Stmt::Copy(raw, at, source, from, how.count as u32)]
        });
    }

    /// Puts an input's tile that begins at step `start` into its place; where it arrived before, sends for the one that
    /// begins at `after`.
    pub(super) fn fill(
        &mut self,
        input: InputId,
        index: &[AxisIndex],
        to: Buf,
        start: &Ix,
        after: Option<&Ix>,
    ) {
        let how = self.copying(input, to);
        let raw = self.raw_inputs.get(&input).copied();
        let source = self.inputs[input.0 as usize].unwrap_or(Buf(0));
        self.team(&how, |b, turn| {
            let (step, point) = how.first(&turn);
            let at = turn * Ix::Const(how.count);
            // Each thread finds what it copied itself.
            let (from, ix) = match raw {
                Some(raw) => (raw, at.clone()),
                None => (
                    source,
                    b.source((input, index), &how, start, (&step, &point)),
                ),
            };
            let place = |k: i64| {
                let k = Ix::Const(k);
                if how.along_time {
                    b.place_in_tile(input, &(step.clone() + k), &point)
                } else {
                    b.place_in_tile(input, &step, &(point.clone() + k))
                }
            };
            let places: Vec<Ix> = (0..how.count / how.wide)
                .map(|j| place(j * how.wide))
                .collect();
            if raw.is_none() && how.plain {
                let at = places[0].clone();
                return vec![Stmt::Copy(to, at, from, ix, how.count as u32)];
            }
            let mut regs: Vec<Reg> = (0..how.count).map(|_| b.proc.reg(b.ty)).collect();
            let mut body = vec![match regs[..] {
                [one] => Stmt::Set(one, Rhs::Load(from, ix)),
                _ => Stmt::LoadRow(regs.clone(), from, ix),
            }];
            if how.along_time && b.runs_back() {
                regs.reverse();
            }
            for (regs, at) in regs.chunks(how.wide as usize).zip(places) {
                body.push(match regs {
                    [one] => Stmt::Store(to, at, *one),
                    _ => Stmt::StoreRow(to, at, regs.to_vec()),
                });
            }
            if let (Some(raw), Some(after)) = (raw, after) {
                let ix = b.source((input, index), &how, after, (&step, &point));
                body.push(Stmt::Copy(raw, at, source, ix, how.count as u32));
            }
            body
        });
    }

    /// Where the present element of an input lies in shared memory, if it does.
    pub fn shared_ix(&self, input: InputId) -> Option<(Buf, Ix)> {
        let &buf = self.shared_inputs.get(&input)?;
        let pass = self.pass;
        let time = pass.recurrence.time;
        let mut point = Ix::Const(0);
        for axis in inner(pass, input) {
            point = point * Ix::Const(known(pass, axis)) + self.position(axis);
        }
        if pass.schedule.order == Order::Scanned {
            let (unit, run) = (self.run_unit(input), i64::from(pass.schedule.tile));
            let k = self.copy[time.0 as usize];
            let thread = self.thread_ix();
            let tile = i64::from(pass.schedule.warp) * run;
            let number = (self.tile_now.clone() - self.tile_start.clone()) / Ix::Const(tile);
            let point = number * Ix::Const(self.inner_points(input)) + point;
            let group = point * Ix::Const(run / unit) + Ix::Const(k / unit);
            let ix = (group * Ix::Const(i64::from(pass.schedule.warp)) + thread) * Ix::Const(unit)
                + Ix::Const(k % unit);
            return Some((buf, self.base(input) + ix));
        }
        let step = match self.runs_back() {
            false => self.position(time),
            true => self.extent(time) - self.position(time) + Ix::Const(-1),
        };
        let local = step - self.tile_start.clone();
        let ix = local * Ix::Const(self.inner_points(input)) + point;
        Some((buf, self.base(input) + ix))
    }
}
