//! Runs: the `tile` steps of a tile of time that are one thread's, side by side in registers.
//!
//! In: a tile's first step, the end of time. Out: where each step stands, and stores of what was computed for it. Steps
//! beyond the end are read from memory that is there, and never stored.

use selscan_dsl::Part;

use super::builder::Builder;
use crate::loop_ir::{Ix, Reg};

/// A thread's run.
pub(super) struct Run {
    /// Its first step.
    pub first: Ix,
    /// The last step that may be read, where a run may end in the middle.
    pub last: Option<Ix>,
    /// Where runs are before the end whole or not at all: this one is if the first is below the second.
    pub there: Option<(Ix, Ix)>,
}

impl Run {
    /// Steps of a run and runs of a tile, where time may end in the middle of a run.
    pub fn cut(b: &Builder<'_>) -> Option<(i64, i64)> {
        let (run, warp) = sizes(b);
        (b.multiple_of_time % run != 0).then_some((run, warp))
    }

    /// This thread's run of the tile that begins at `start`, all of which is before the end.
    pub fn whole(b: &Builder<'_>, start: &Ix) -> Run {
        let thread = b.thread_ix();
        Run {
            first: start.clone() + thread * Ix::Const(sizes(b).0),
            last: None,
            there: None,
        }
    }

    /// This thread's run of the tile that begins at `start`; time ends at `hi`.
    pub fn of(b: &Builder<'_>, start: &Ix, hi: &Ix) -> Run {
        let whole = Run::whole(b, start);
        let (run, warp) = sizes(b);
        if b.multiple_of_time % run != 0 {
            return Run {
                last: Some(hi.clone() + Ix::Const(-1)),
                ..whole
            };
        }
        if b.multiple_of_time % (run * warp) == 0 {
            return whole;
        }
        Run {
            // What is beyond the end reads the last run, which is there: its memory, not its time.
            first: whole.first.clone().min(hi.clone() + Ix::Const(-run)),
            last: None,
            there: Some((whole.first, hi.clone())),
        }
    }
}

fn sizes(b: &Builder<'_>) -> (i64, i64) {
    let s = &b.pass.schedule;
    (i64::from(s.tile), i64::from(s.warp))
}

/// Runs `body` with time at step `k` of a run.
pub(super) fn at_step<T>(
    b: &mut Builder<'_>,
    run: &Run,
    k: i64,
    body: impl FnOnce(&mut Builder<'_>) -> T,
) -> T {
    let mut step = run.first.clone() + Ix::Const(k);
    if let Some(last) = &run.last {
        step = step.min(last.clone());
    }
    let at = b.moment(step);
    let time = b.pass.recurrence.time;
    b.with_axis(time, at, k, body)
}

/// A value of an output: step, output, half, register.
pub(super) type Value = (i64, usize, Part, Reg);

/// The values of some outputs at the present point, step `k`.
pub(super) fn outputs(b: &mut Builder<'_>, which: &[usize], k: i64) -> Vec<Value> {
    let mut values = Vec::new();
    for &o in which {
        let decl = &b.pass.recurrence.outputs[o];
        let part = if decl.complex { Part::Re } else { Part::Real };
        values.push((k, o, part, b.value(decl.value)));
        if let Some(im) = decl.value_im {
            values.push((k, o, Part::Im, b.value(im)));
        }
    }
    values
}

/// Stores values of outputs, but for those beyond the end of time.
pub(super) fn store(b: &mut Builder<'_>, run: &Run, values: &[Value]) {
    let put = |b: &mut Builder<'_>, values: &[Value]| {
        for &(k, o, part, register) in values {
            at_step(b, run, k, |b| b.store_output(o, part, register));
        }
    };
    if run.last.is_some() {
        for value in values {
            where_there(b, run, value.0, |b| put(b, &[*value]));
        }
    } else {
        where_there(b, run, 0, |b| put(b, values));
    }
}

/// Runs `body` where step `k` of a run is before the end of time.
pub(super) fn where_there(
    b: &mut Builder<'_>,
    run: &Run,
    k: i64,
    body: impl FnOnce(&mut Builder<'_>),
) {
    if let Some((first, end)) = &run.there {
        b.choice(first.clone(), end.clone(), body, |_| {});
    } else if let Some(last) = &run.last {
        let step = run.first.clone() + Ix::Const(k - 1);
        b.choice(step, last.clone(), body, |_| {});
    } else {
        body(b);
    }
}
