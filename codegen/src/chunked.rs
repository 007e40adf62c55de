//! The time-chunked algorithm as three passes: reduce, scan, then scan (Blelloch 1990).
//!
//! ```text
//! summary   every chunk on its own: (prod a, h from 0); Σ s in place of prod a where a = exp(α s), if no tile is kept
//! carry     over chunks, one after another: start[c+1] = decay[c] start[c] + summary[c]
//! rescan    every chunk again, from its start
//! ```
//! In: a [`Scan`] whose states are affine and diagonal. Out: passes over recurrences derived from it. Where states are windows
//! ([`selscan_dsl::window`]) one pass is enough: every chunk begins some steps earlier, and has its states then.

use selscan_dsl::scan::{Class, Scan};
use selscan_dsl::window::reach;
use selscan_dsl::{AxisDecl, AxisId, Chunks, Decay, Extents, InputDecl, Recurrence, StateDecl};

use crate::dtype::Dtype;
use crate::loop_ir::{Ix, Role};
use crate::options::Options;
use crate::plan::{Pass, Refusal};
use crate::schedule::{Order, Schedule};
use crate::structure::Structure;

/// Passes, and the workspaces (storage type, length) between them.
pub(crate) type Passes = (Vec<Pass>, Vec<(Dtype, Ix)>);

/// Steps that an item of windows begins earlier are whole ones of these, so that wide accesses stay so.
const WHOLE: usize = 8;

/// Whether time is cut into chunks that each begin a little earlier, in place of passes: where all states are windows.
pub(crate) fn is_windowed(scan: &Scan) -> bool {
    scan.class == Class::Shift && !scan.is_diagonal()
}

/// How many steps before its chunk a window begins; 0 where it is none.
pub(crate) fn steps_before(rec: &Recurrence, extents: &Extents) -> usize {
    reach(rec, extents).map_or(0, |n| n.max(1).next_multiple_of(WHOLE))
}

/// The pass over chunks of windows, of which nothing is left after some steps: each begins that much earlier. `whole` is the
/// pass over all of time.
pub(crate) fn windowed(whole: Pass, extents: &Extents, chunk: u32) -> Result<Pass, Refusal> {
    let rec = &whole.recurrence;
    let no = |why: String| Err(Refusal(format!("chunks of windows {why}")));
    let reach = steps_before(rec, extents);
    if reach == 0 {
        return no(format!(
            "need states of which nothing is left after some steps; {} has others",
            rec.name
        ));
    }
    if whole.schedule.order != Order::Registers || whole.schedule.share > 0 {
        return no("are run by order=registers without share".to_owned());
    }
    if whole.save > 0 || rec.states.iter().any(|s| s.reverse) {
        return no("run onward and save no states".to_owned());
    }
    if whole
        .initial
        .iter()
        .zip(&whole.last)
        .any(|(i, l)| i.is_some() && l.is_some())
    {
        return no("read their first states while others write the last, which may be the same memory: give or take one of them".to_owned());
    }
    match u32::try_from(reach) {
        Ok(reach) if reach <= chunk => Ok(Pass {
            chunk: Some(chunk),
            reach,
            ..whole
        }),
        _ => no(format!(
            "of {chunk} steps are shorter than the {reach} before them that count; use chunk={reach} or more"
        )),
    }
}

/// Whether chunks of time consist of whole ones of those before which states are saved, if any are.
pub(crate) fn check_saves(chunk: u32, save: u32) -> Result<(), Refusal> {
    if save == 0 || chunk.is_multiple_of(save) {
        return Ok(());
    }
    Err(Refusal(format!(
        "chunks of {chunk} steps do not consist of whole ones of {save}, before which states are saved; use a multiple of {save}"
    )))
}

/// The passes of the time-chunked algorithm and the workspaces between them, which are numbered from `first` on.
///
/// Of S states, state s has three: 2s holds the chunks' summaries, 2s + 1 their decays or spans, and 2S + s the state that
/// each chunk starts from, written by the carry pass.
pub(crate) fn passes(
    scan: &Scan,
    whole: Pass,
    options: &Options,
    (chunk, first): (u32, usize),
) -> Result<Passes, Refusal> {
    let no = || {
        Refusal(format!(
            "chunks of time need every state to be affine and diagonal; {} is {}",
            whole.recurrence.name, scan.class
        ))
    };
    // States of a tile, and of threads that share them, all have the same inner axes: a sum would have fewer.
    let alike = whole.schedule.order == Order::Tiled || whole.schedule.warp > 1;
    let decay = if alike { Decay::Product } else { Decay::Sum };
    let Chunks { summary, carry } = scan.chunks(decay).ok_or_else(no)?.clone();
    let rec = &whole.recurrence;
    let dtype = options.compute_dtype();
    let chunks = whole.extents[rec.time.0 as usize]
        .clone()
        .div_ceil(i64::from(chunk));
    let count = rec.states.len();
    let work = |number: usize| (Role::Workspace((first + number) as u32), dtype);
    let mut workspaces = Vec::new();
    let length = |state: &StateDecl| {
        let one = Ix::Const(if state.complex { 2 } else { 1 });
        state.axes.iter().fold(chunks.clone() * one, |len, a| {
            len * whole.extents[a.0 as usize].clone()
        })
    };
    let all = summary.states.iter().chain(&rec.states);
    workspaces.extend(all.map(|state| (dtype, length(state))));

    let by_name = |other: &Recurrence| -> Result<Vec<Ix>, Refusal> {
        let find = |name: &str| {
            rec.axis_named(name)
                .map(|a| whole.extents[a.0 as usize].clone())
        };
        let own = |(i, axis): (usize, &AxisDecl)| match find(&axis.name) {
            _ if AxisId(i as u8) == other.time
                && other.axis_name(other.time) != rec.axis_name(rec.time) =>
            {
                Ok(chunks.clone())
            }
            Some(ix) => Ok(ix),
            None => Err(Refusal(format!(
                "axis {} of the chunk carry has no extent",
                axis.name
            ))),
        };
        other.axes.iter().enumerate().map(own).collect()
    };
    let input_of = |inputs: &[InputDecl]| -> Result<Vec<(Role, Dtype)>, Refusal> {
        let find = |name: &str| rec.input_named(name).map(|i| whole.inputs[i.0 as usize]);
        let missing = |name: &str| {
            Refusal(format!(
                "input {name} of a pass over chunks is not an input of the recurrence"
            ))
        };
        inputs
            .iter()
            .map(|i| find(&i.name).ok_or_else(|| missing(&i.name)))
            .collect()
    };
    let summary_pass = Pass {
        name: format!("{}_summary", rec.name),
        structure: Structure::like(&summary, rec, &whole.structure),
        extents: by_name(&summary)?,
        schedule: whole.schedule,
        chunk: Some(chunk),
        inputs: input_of(&summary.inputs)?,
        initial: vec![None; summary.states.len()],
        last: (0..summary.states.len()).map(|k| Some(work(k))).collect(),
        outputs: vec![],
        reach: 0,
        pairs: None,
        save: 0,
        saved: vec![],
        replays: vec![],
        retraced: 0,
        sums: None,
        beside: false,
        recurrence: summary,
    };
    let starts: Vec<(Role, Dtype)> = (0..count).map(|s| work(2 * count + s)).collect();
    check_saves(chunk, whole.save)?;
    let carry_structure = Structure::of(&carry);
    // What the decays read of the kernel's own inputs, then {h}_summary and {h}_decay or {h}_span for each state h in order.
    let (own, given) = carry.inputs.split_at(carry.inputs.len() - 2 * count);
    let mut carry_inputs = input_of(own)?;
    carry_inputs.extend((0..given.len()).map(work));
    let carry_pass = Pass {
        name: format!("{}_carry", rec.name),
        extents: by_name(&carry)?,
        schedule: Schedule {
            order: Order::Registers,
            block: 1,
            warp: 1,
            unroll: 1,
            share: 0,
            ..whole.schedule
        },
        chunk: None,
        inputs: carry_inputs,
        initial: whole.initial.clone(),
        last: whole.last.clone(),
        outputs: starts.clone(),
        structure: carry_structure,
        reach: 0,
        pairs: None,
        save: 0,
        saved: vec![],
        replays: vec![],
        retraced: 0,
        sums: None,
        beside: false,
        recurrence: carry,
    };
    let rescan = Pass {
        name: format!("{}_rescan", rec.name),
        chunk: Some(chunk),
        initial: starts.into_iter().map(Some).collect(),
        last: vec![None; count],
        ..whole
    };
    Ok((vec![summary_pass, carry_pass, rescan], workspaces))
}
