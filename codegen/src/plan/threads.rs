//! What threads may share on a GPU: steps, states, inputs. In: a pass with its schedule. Out: nothing, or why not.

use selscan_dsl::{AxisId, AxisIndex, Node};

use super::{Pass, Refusal, known};
use crate::lower::{Parts, exchange_bytes, tile_bytes};
use crate::options::Options;
use crate::schedule::Order;
use crate::structure::{Level, reads_own_point};
use crate::target::Target;

/// Why the pass's order does not fit it.
fn unfit(pass: &Pass, why: &str) -> Result<(), Refusal> {
    let (order, name) = (pass.schedule.order, &pass.recurrence.name);
    Err(Refusal(format!(
        "order={order} does not fit {name}: {why}; use another order"
    )))
}

/// Whether runs of steps can be scanned across threads.
pub(super) fn check_scanned(pass: &Pass) -> Result<(), Refusal> {
    let (rec, structure, s) = (&pass.recurrence, &pass.structure, &pass.schedule);
    let no = |why: &str| unfit(pass, why);
    if let Some(why) = &structure.untileable {
        return no(why);
    }
    if pass.pairs.is_none() {
        return no("a state is not affine and diagonal by itself, or time is chunked");
    }
    let apart = rec.outputs.iter().find(|o| {
        let inner = o.axes.iter().any(|&a| structure.inner.contains(a));
        inner && structure.level(o.value) != Level::State
    });
    if let Some(output) = apart {
        return no(&format!(
            "output {} has inner axes but reads no state",
            output.name
        ));
    }
    if structure.state_inner.iter().count() > 1 {
        return no("its states have more than one inner axis");
    }
    if structure.late.contains(&true) {
        return no("a state is a sum over time, which is not run through with the others");
    }
    if s.tile * s.block > 64 || s.lanes > 1 {
        return no("a thread has registers for tile times block of at most 64 steps, and lanes=1");
    }
    Ok(())
}

/// The points of the states times the steps of a run that a thread's code may unroll.
const MOST_STAGED: u64 = 512;

/// Whether the threads of an item can compute what they need of each other before and after the states.
pub(super) fn check_staged(pass: &Pass, options: &Options, target: &Target) -> Result<(), Refusal> {
    let (rec, s) = (&pass.recurrence, &pass.schedule);
    let no = |why: &str| unfit(pass, why);
    if let Err(why) = Parts::of(pass) {
        return no(&why);
    }
    if pass.retraced > 0 {
        check_retraced(pass)?;
    } else if s.warp < 2 || s.lanes > 1 || s.block > 1 {
        return no("wanted are warp=2 or more, lanes=1 and block=1");
    }
    let steps = if pass.retraced > 0 { s.unroll } else { s.tile };
    let states: u64 = rec
        .states
        .iter()
        .map(|state| {
            let inner = state
                .axes
                .iter()
                .filter(|&&a| pass.structure.inner.contains(a));
            inner.fold(1, |n: u64, &a| n.saturating_mul(known(pass, a)))
        })
        .sum();
    if (states / u64::from(s.warp)).saturating_mul(u64::from(steps)) > MOST_STAGED {
        return no("a thread would unroll too many points; use a smaller tile or a larger warp");
    }
    let bytes = exchange_bytes(pass, options.compute_dtype());
    let most = target
        .gpu
        .as_ref()
        .map_or(0, |g| u64::from(g.shared_per_block));
    if bytes > most {
        return no(
            "its threads have no room for what they have in common; use a smaller tile or fewer threads",
        );
    }
    Ok(())
}

/// Whether chunks of time can be traced back by the threads of a block together.
fn check_retraced(pass: &Pass) -> Result<(), Refusal> {
    let (rec, structure, s) = (&pass.recurrence, &pass.structure, &pass.schedule);
    let no = |why: &str| unfit(pass, why);
    if structure.lane.is_none() {
        return no("it has no axis whose points are independent");
    }
    if s.warp < 2 || s.warp > 16 || s.block > 1 || s.lanes * s.warp != s.threads {
        return no("wanted are warp=2 to 16, block=1 and lanes times warp as many as threads");
    }
    if s.tile * s.warp != s.save || !s.save.is_multiple_of(s.unroll) {
        return no("wanted are tile times warp as many steps as save, and unroll a part of these");
    }
    for (state, late) in rec.states.iter().zip(&structure.late) {
        let inner = state.axes.iter().any(|&a| structure.inner.contains(a));
        if inner == *late {
            return no(&format!(
                "state {} has other inner axes than the others",
                state.name
            ));
        }
    }
    Ok(())
}

/// Whether states are saved, or had back, chunk by chunk by an order that can.
pub(super) fn check_saved(pass: &Pass) -> Result<(), Refusal> {
    let own = matches!(pass.schedule.order, Order::Scanned | Order::Staged);
    if pass.save == 0 || pass.retraced > 0 || !own {
        return Ok(());
    }
    match pass.replays.is_empty() {
        true => Ok(()),
        false => unfit(pass, "chunks of time are run again from saved states"),
    }
}

/// Whether blocks are full, and of one row each, so that all of their threads have the same loops.
pub(crate) fn is_full(pass: &Pass, multiples: &[i64]) -> bool {
    let s = &pass.schedule;
    let own = i64::from(s.block * (s.threads / s.warp.max(1)));
    let lane = pass.structure.lane;
    lane.is_some_and(|a| multiples.get(a.0 as usize).copied().unwrap_or(1) % own == 0)
}

/// Whether inputs are the same for the threads of a block, and it is one for all of them.
pub(crate) fn check_share(
    pass: &Pass,
    options: &Options,
    target: &Target,
    multiples: &[i64],
) -> Result<(), Refusal> {
    let compute = options.compute_dtype();
    let s = &pass.schedule;
    // Threads that meet have the same steps.
    let meets = s.order == Order::Staged && (pass.chunk.is_some() || pass.retraced > 0);
    if meets && !is_full(pass, multiples) {
        return unfit(pass, "its lane axis has a rest beside whole blocks");
    }
    if s.share == 0 {
        return Ok(());
    }
    let no = |why: String| {
        Err(Refusal(format!(
            "share={} does not fit: {why}; use share=0",
            s.share
        )))
    };
    let Some(lane) = pass.structure.lane else {
        return no(format!("{} has no lane axis", pass.recurrence.name));
    };
    let own = i64::from(s.block * (s.threads / s.warp.max(1)));
    if !is_full(pass, multiples) {
        let name = pass.recurrence.axis_name(lane);
        return no(format!(
            "a block has {own} points of {name}, which is no multiple of that"
        ));
    }
    let time = pass.recurrence.time;
    let multiple = multiples.get(time.0 as usize).copied().unwrap_or(1);
    let runs = s.order == Order::Scanned && multiple % i64::from(s.tile) != 0;
    let apart = pass.chunk.is_some() && s.order != Order::Staged;
    if runs || apart {
        return no("time is chunked or no multiple of tile".into());
    }
    if !matches!(s.order, Order::Scanned | Order::Registers | Order::Staged) {
        return no(format!("order={} keeps no tile of inputs", s.order));
    }
    let bytes = tile_bytes(pass, compute);
    if bytes == 0 {
        return no("no input is the same along the lane axis".into());
    }
    let most = target
        .gpu
        .as_ref()
        .map_or(0, |g| u64::from(g.shared_per_block));
    let own = exchange_bytes(pass, compute);
    let turns = s.order == Order::Scanned && s.tiles == 1;
    if s.share > 3 || s.share == 3 && !turns {
        return no("3 is for order=scanned with tiles=1, 2 the most for others".into());
    }
    if bytes + own > most {
        return no(format!(
            "a tile of the inputs is {bytes} bytes, of at most {}",
            most.saturating_sub(own)
        ));
    }
    Ok(())
}

/// Whether threads can share out the points of each nest of a step.
fn check_together(pass: &Pass) -> Result<(), Refusal> {
    let s = &pass.schedule;
    let no = |why: &str| {
        let name = &pass.recurrence.name;
        Err(Refusal(format!(
            "{} threads cannot run the steps of {name} together: {why}; use warp=1",
            s.warp
        )))
    };
    if s.warp < 32 {
        return no("they are fewer than those that meet, 32 or a block");
    }
    if s.lanes * s.block > 1 {
        return no("an item has several points of the lane axis");
    }
    if pass.chunk.is_some() || pass.save > 0 || !pass.replays.is_empty() || pass.sums.is_some() {
        return no("time is chunked, or states are saved for a gradient");
    }
    Ok(())
}

/// Whether threads can share an item as the schedule says.
pub(super) fn check_threads(pass: &Pass, target: &Target) -> Result<(), Refusal> {
    let (rec, structure, s) = (&pass.recurrence, &pass.structure, &pass.schedule);
    if target.gpu.is_none() {
        if s.warp == 1 && !matches!(s.order, Order::Scanned | Order::Staged) {
            return Ok(());
        }
        return Err(Refusal(format!(
            "warp={} order={} is for GPUs; {} is none",
            s.warp, s.order, target.name
        )));
    }
    // Step by step a whole block may run an item.
    let block = s.order == Order::Stepped && s.warp == s.threads;
    if !s.warp.is_power_of_two()
        || s.warp > 32 && !block
        || !s.threads.is_multiple_of(32)
        || s.threads > 1024
    {
        return Err(Refusal(
            "out of range: warp is 1, 2, 4, 8, 16 or 32 (for order=stepped also threads), threads a multiple of 32 up to 1024"
                .into(),
        ));
    }
    if s.warp == 1 || s.order == Order::Scanned {
        return Ok(());
    }
    if s.order == Order::Stepped {
        return check_together(pass);
    }
    let no = |why: String| {
        Err(Refusal(format!(
            "{} threads cannot share the states of {}: {why}; use warp=1",
            s.warp, rec.name
        )))
    };
    let axes: Vec<AxisId> = structure.state_inner.iter().collect();
    let [axis] = axes[..] else {
        return no(format!("they have {} inner axes, not 1", axes.len()));
    };
    if !matches!(s.order, Order::Registers | Order::Staged) {
        return no(format!("order={} keeps them in memory", s.order));
    }
    if !known(pass, axis).is_multiple_of(u64::from(s.warp)) {
        return no(format!("{} is no multiple of it", rec.axis_name(axis)));
    }
    for id in rec.graph.reachable(&rec.roots()) {
        let node = rec.graph.node(id);
        let crosses = match node {
            Node::Shift { axis: shifted, .. } => *shifted == axis,
            Node::Input { index, .. } | Node::State { index, .. } => {
                index.iter().any(|i| match i {
                    AxisIndex::At(_) => false,
                    AxisIndex::Group { of, .. } => *of == axis,
                })
            }
            _ => false,
        };
        if crosses || !reads_own_point(rec, node) {
            return no(format!("points of {} meet", rec.axis_name(axis)));
        }
    }
    let late = |s: usize| pass.retraced > 0 && structure.late[s];
    let mut states = rec.states.iter().enumerate();
    if !states.all(|(k, s)| late(k) || s.axes.contains(&axis)) {
        return no(format!("not every state has {}", rec.axis_name(axis)));
    }
    Ok(())
}
