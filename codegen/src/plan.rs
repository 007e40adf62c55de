//! A plan: every decision about one kernel made and checked, so that lowering cannot fail.
//!
//! In: a [`Scan`], extents, [`Options`], a [`Target`] and a [`Schedule`]. Out: a [`Plan`], the list of passes
//! (one loop nest each) over memory with known roles; or a [`Refusal`], the one place that says no.

mod threads;

use std::collections::BTreeSet;
use std::fmt;

use selscan_dsl::scan::Scan;
use selscan_dsl::{
    AxisId, AxisIndex, Extents, InputDecl, InputId, Node, Pair, Recurrence, StateId, When,
};

use crate::chunked::{is_windowed, passes, windowed};
use crate::dtype::{Dtype, Ty};
use crate::ix::gcd;
use crate::legalize::EXP2_OF;
use crate::loop_ir::{Ix, Role};
use crate::options::Options;
use crate::schedule::{Algorithm, Order, Schedule};
use crate::structure::Structure;
use crate::target::Target;
use threads::{check_saved, check_scanned, check_staged, check_threads};
pub(crate) use threads::{check_share, is_full};

/// Why a schedule does not fit a recurrence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// One loop nest of a plan: a recurrence, how its loops run, and what its tensors are to the launch.
#[derive(Clone, Hash, Debug)]
pub struct Pass {
    /// Its name, the proc's name.
    pub name: String,
    /// A real, simplified, single-direction recurrence.
    pub recurrence: Recurrence,
    /// Its loop structure.
    pub structure: Structure,
    /// The extent of each of its axes.
    pub extents: Vec<Ix>,
    /// How loops are nested, and how wide.
    pub schedule: Schedule,
    /// Steps of a chunk: work items then also run over chunks, and states lie in memory chunk by chunk.
    pub chunk: Option<u32>,
    /// What each input is.
    pub inputs: Vec<(Role, Dtype)>,
    /// Where each state starts from, if not from its constant.
    pub initial: Vec<Option<(Role, Dtype)>>,
    /// Where each state's last value goes.
    pub last: Vec<Option<(Role, Dtype)>>,
    /// What each output is.
    pub outputs: Vec<(Role, Dtype)>,
    /// Steps before its chunk from which an item begins, without outputs: after them nothing is left of what its states
    /// began with. 0: states of chunks, if it has some, lie in memory chunk by chunk.
    pub reach: u32,
    /// (a, b) of each state, for [`Order::Scanned`].
    pub pairs: Option<Vec<Pair>>,
    /// Steps of the chunks of time before which states are saved, or whose states are had back; 0 where neither is.
    pub save: u32,
    /// Where each state is saved before a chunk; empty where none is.
    pub saved: Vec<(Role, Dtype)>,
    /// What is run again, chunk by chunk, to have its states back.
    pub replays: Vec<Replay>,
    /// How many of its first states are those of the kernel, run again chunk by chunk from where they were saved in the
    /// same steps as the others; these run from the last step to the first. [`Order::Staged`] alone.
    pub retraced: usize,
    /// Sums over the lane axis that are left in parts.
    pub sums: Option<Sums>,
    /// Whether it reads nothing that the pass before it writes, and is as simple (a thread an item): both are one launch.
    pub beside: bool,
}

/// A recurrence that is run again from saved states, inside a pass that reads its states.
#[derive(Clone, Hash, Debug)]
pub struct Replay {
    /// Its states start from what was saved; its outputs are the states after each step, by the states' names.
    pub pass: Pass,
    /// Inputs of the pass around it that are such a state: which of its outputs, before or after the step.
    pub reads: Vec<(InputId, u32, When)>,
}

/// Outputs that are sums over the lane axis, left in parts: they have parts in place of that axis.
#[derive(Clone, Hash, Debug)]
pub struct Sums {
    /// By output, if it is one: its axes in the order in which they lie in memory, inner ones last.
    pub outputs: Vec<Option<Vec<AxisId>>>,
    /// Parts of each group, which an item makes of several blocks; 0: each block is a part.
    pub parts: u32,
    /// Groups of the lane axis that are summed apart: 1 where all of it is summed.
    pub groups: Ix,
    /// How many parts there are.
    pub all: Ix,
    /// Neighbours that a part has at each of its points: the lanes of a CPU's vector, which stay apart; 1 on a GPU.
    pub apart: i64,
}

/// A plan.
#[derive(Clone, Hash, Debug)]
pub struct Plan {
    /// Its passes in order.
    pub passes: Vec<Pass>,
    /// Memory that the passes share: storage type and length.
    pub workspaces: Vec<(Dtype, Ix)>,
    /// Names of the run-time extents, by axis of the scan's recurrence; `None` where compiled in.
    pub extent_names: Vec<Option<String>>,
    /// A number that divides each run-time extent, by axis: 1 but on a GPU, whose wide accesses need it.
    pub multiples: Vec<i64>,
    /// Whether neighbouring elements are accessed as one where that may be: on a GPU.
    pub wide: bool,
    /// The extents that it was made for: code for a GPU has 32-bit indices where they are enough for those.
    pub extents: Extents,
    /// Bytes that an item may keep for itself; what is beyond is memory of the launch.
    pub stack: u64,
    /// Bytes that the threads of an item may have in common step by step, in a block's shared memory; what is beyond is memory
    /// of the launch. Half of it, for the other half is the cache of what they all read.
    pub common: u64,
    /// The precision of arithmetic.
    pub compute: Ty,
    /// The accepted schedule.
    pub schedule: Schedule,
}

/// The most node copies that a fully unrolled body may have.
const MOST_COPIES: u64 = 2500;

impl Plan {
    /// Checks a schedule against a recurrence and makes every decision that is left.
    ///
    /// # Errors
    /// A sentence that says why the schedule does not fit, or which size is out of range.
    pub fn new(
        scan: &Scan,
        extents: &Extents,
        options: &Options,
        target: &Target,
        schedule: &Schedule,
    ) -> Result<Plan, Refusal> {
        let scanned = (schedule.order == Order::Scanned)
            .then(|| scan.pairs())
            .flatten();
        let rec = scanned.map_or(&scan.recurrence, |p| &p.recurrence);
        check_sizes(rec, extents)?;
        if !options.compute.is_float() {
            return Err(Refusal(format!(
                "arithmetic in {} is not offered; f32 and f64 are",
                options.compute.name()
            )));
        }
        let structure = Structure::of(rec);
        let mut multiples = multiples(rec, structure.lane, extents, target);
        let tile = whole_tiles(schedule).filter(|&tile| extents.get(rec.time).is_multiple_of(tile));
        if let (Some(tile), Some(of)) = (tile, multiples.get_mut(rec.time.0 as usize)) {
            *of = tile as i64;
        }
        let fixed = fixed_axes(rec, &structure);
        let mut ix: Vec<Ix> = Vec::new();
        let mut extent_names = Vec::new();
        for (i, axis) in rec.axes.iter().enumerate() {
            let id = AxisId(i as u8);
            let known = fixed.contains(&id) || fixed.contains(&rec.canonical(id));
            extent_names.push((!known).then(|| axis.name.clone()));
            ix.push(if known {
                Ix::Const(extents.get(id) as i64)
            } else {
                Ix::Extent(rec.canonical(id))
            });
        }
        let name_state = |s: StateId| &rec.state(s).name;
        let role_of = |given: &BTreeSet<String>, s: StateId, role: Role| {
            given
                .contains(name_state(s))
                .then(|| (role, options.dtype(name_state(s))))
        };
        let whole = Pass {
            name: rec.name.clone(),
            recurrence: rec.clone(),
            structure,
            extents: ix,
            schedule: *schedule,
            chunk: None,
            inputs: (0..rec.inputs.len())
                .map(|i| {
                    (
                        Role::Input(InputId(i as u32)),
                        options.dtype(&rec.inputs[i].name),
                    )
                })
                .collect(),
            initial: rec
                .state_ids()
                .map(|s| role_of(&options.initial, s, Role::Initial(s)))
                .collect(),
            last: rec
                .state_ids()
                .map(|s| role_of(&options.last, s, Role::Last(s)))
                .collect(),
            outputs: rec
                .outputs
                .iter()
                .enumerate()
                .map(|(i, o)| (Role::Output(i as u32), options.dtype(&o.name)))
                .collect(),
            reach: 0,
            pairs: scanned.map(|p| p.pairs.clone()),
            save: schedule.save,
            saved: rec
                .state_ids()
                .filter(|_| schedule.save > 0)
                .map(|s| {
                    (
                        Role::Output(rec.outputs.len() as u32 + s.0),
                        options.compute_dtype(),
                    )
                })
                .collect(),
            replays: vec![],
            retraced: 0,
            sums: None,
            beside: false,
        };
        let (passes, workspaces) = match schedule.algorithm {
            Algorithm::Sequential => (vec![whole], vec![]),
            Algorithm::Chunked { chunk } if is_windowed(scan) => {
                (vec![windowed(whole, extents, chunk)?], vec![])
            }
            Algorithm::Chunked { chunk } => passes(scan, whole, options, (chunk, 0))?,
        };
        for pass in &passes {
            check_pass(pass, options, target)?;
            check_share(pass, options, target, &multiples)?;
        }
        Ok(Plan {
            passes,
            workspaces,
            multiples,
            wide: target.gpu.is_some(),
            extents: extents.clone(),
            stack: target.gpu.as_ref().map_or(u64::MAX, |gpu| gpu.stack),
            common: target
                .gpu
                .as_ref()
                .map_or(0, |gpu| u64::from(gpu.shared_per_block / 2)),
            extent_names,
            compute: options.compute,
            schedule: *schedule,
        })
    }
}

impl Pass {
    /// Whether neighbouring items are to be neighbouring chunks: of windows, which are short, where time is innermost in memory.
    #[must_use]
    pub(crate) fn runs_along_time(&self) -> bool {
        self.reach > 0 && time_is_last(&self.recurrence, &self.structure)
    }
}

/// The inputs that vary in time and along the lane axis.
pub(crate) fn streams<'r>(
    rec: &'r Recurrence,
    structure: &Structure,
) -> impl Iterator<Item = &'r InputDecl> {
    let lane = structure.lane;
    let varies = move |i: &&InputDecl| {
        i.axes.contains(&rec.time) && lane.is_some_and(|a| i.axes.contains(&a))
    };
    rec.inputs.iter().filter(varies)
}

/// Whether time is innermost in what varies in time and along the lane axis.
pub(crate) fn time_is_last(rec: &Recurrence, structure: &Structure) -> bool {
    streams(rec, structure).all(|i| i.axes.last() == Some(&rec.time))
}

impl Plan {
    /// A number that divides the extent of an axis.
    #[must_use]
    pub fn multiple(&self, axis: AxisId) -> i64 {
        self.multiples.get(axis.0 as usize).copied().unwrap_or(1)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "schedule  {}", self.schedule)?;
        writeln!(f, "compute   {}", self.compute.name())?;
        for pass in &self.passes {
            let rec = &pass.recurrence;
            let names = |axes: &mut dyn Iterator<Item = AxisId>| {
                let names: Vec<&str> = axes.map(|a| rec.axis_name(a)).collect();
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(" ")
                }
            };
            writeln!(f, "pass {}", pass.name)?;
            writeln!(f, "  order     {}", pass.schedule.order)?;
            writeln!(
                f,
                "  parallel  {}",
                names(&mut pass.structure.parallel.iter().copied())
            )?;
            writeln!(
                f,
                "  lanes     {} x {} of {}",
                pass.schedule.block,
                pass.schedule.lanes,
                names(&mut pass.structure.lane.into_iter())
            )?;
            writeln!(f, "  inner     {}", names(&mut pass.structure.inner.iter()))?;
            let fixed = rec
                .axes
                .iter()
                .zip(&pass.extents)
                .filter_map(|(axis, ix)| match ix {
                    Ix::Const(n) => Some(format!("{}={n}", axis.name)),
                    _ => None,
                });
            writeln!(f, "  fixed     {}", fixed.collect::<Vec<_>>().join(" "))?;
            if let Some(chunk) = pass.chunk {
                writeln!(f, "  chunk     {chunk} steps")?;
            }
            let inputs = rec
                .inputs
                .iter()
                .zip(&pass.inputs)
                .map(|(i, (_, dtype))| format!("{}: {dtype}", i.name));
            writeln!(f, "  reads     {}", inputs.collect::<Vec<_>>().join(", "))?;
            let outputs = rec
                .outputs
                .iter()
                .zip(&pass.outputs)
                .map(|(o, (_, dtype))| format!("{}: {dtype}", o.name));
            let last = rec
                .states
                .iter()
                .zip(&pass.last)
                .filter_map(|(s, last)| last.map(|(_, dtype)| format!("{}: {dtype}", s.name)));
            writeln!(
                f,
                "  writes    {}",
                outputs.chain(last).collect::<Vec<_>>().join(", ")
            )?;
        }
        Ok(())
    }
}

/// Axes whose extents are compiled in: inner axes are unrolled and laid out in scratch memory; a grouped lane
/// axis must be known to keep whole vectors in one group.
pub(crate) fn fixed_axes(rec: &Recurrence, structure: &Structure) -> Vec<AxisId> {
    let mut fixed: Vec<AxisId> = structure.inner.iter().map(|a| rec.canonical(a)).collect();
    for id in rec.graph.reachable(&rec.roots()) {
        if let Node::Input { index, .. } | Node::State { index, .. } = rec.graph.node(id) {
            for i in index {
                if let AxisIndex::Group { of, groups } = i
                    && (Some(*of) == structure.lane || structure.inner.contains(*of))
                {
                    fixed.extend([*of, *groups]);
                }
            }
        }
    }
    fixed.sort_unstable();
    fixed.dedup();
    fixed
}

/// By axis the largest power of two, at most 16, that divides the extent (on the lane axis, the largest divisor of 1024 · 15);
/// 1 on a CPU.
pub(crate) fn multiples(
    rec: &Recurrence,
    lane: Option<AxisId>,
    extents: &Extents,
    target: &Target,
) -> Vec<i64> {
    let of = |i: usize| {
        let extent = extents.get(rec.canonical(AxisId(i as u8)));
        // Blocks of threads run along the lane axis; those of 10 or 12 warps fit where a power of two leaves some idle.
        let most = if Some(AxisId(i as u8)) == lane {
            1024 * 15
        } else {
            16
        };
        gcd(extent as i64, most)
    };
    let count = rec.axes.len();
    match target.gpu {
        Some(_) => (0..count).map(of).collect(),
        None => vec![1; count],
    }
}

/// The steps of a tile where code for whole tiles is worth being code of its own: steps beyond the end are masked in each of
/// the states that are under way (4 % of a selective scan's time, sm_90).
fn whole_tiles(s: &Schedule) -> Option<usize> {
    s.several_under_way().then_some((s.tile * s.warp) as usize)
}

/// Every tensor's size in bytes must be a 63-bit number.
pub(crate) fn check_sizes(rec: &Recurrence, extents: &Extents) -> Result<(), Refusal> {
    let inputs = rec.inputs.iter().map(|i| (&i.name, &i.axes));
    let states = rec.states.iter().map(|s| (&s.name, &s.axes));
    let outputs = rec.outputs.iter().map(|o| (&o.name, &o.axes));
    for (name, axes) in inputs.chain(states).chain(outputs) {
        let bytes = axes
            .iter()
            .try_fold(16_u64, |n, &a| n.checked_mul(extents.get(a) as u64))
            .filter(|&n| n < 1 << 62);
        if bytes.is_none() {
            let shape = extents.shape(axes);
            return Err(Refusal(format!(
                "{name} of shape {shape:?} is larger than a 64-bit address space; use smaller extents"
            )));
        }
    }
    Ok(())
}

pub(crate) fn check_pass(pass: &Pass, options: &Options, target: &Target) -> Result<(), Refusal> {
    let (rec, structure, s) = (&pass.recurrence, &pass.structure, &pass.schedule);
    let whole = target.lanes(options.compute);
    let warp = target.gpu.is_some() && s.lanes == 32 && s.warp == 1;
    let warp = warp || pass.retraced > 0;
    if s.lanes != 1 && s.lanes != whole && !warp {
        return Err(Refusal(format!(
            "{} lanes of {} do not fill a vector of {}; use lanes=1 or lanes={whole}",
            s.lanes,
            options.compute.name(),
            target.name
        )));
    }
    if s.tiles == 0
        || s.tiles > 64
        || s.block == 0
        || s.block > 16
        || s.unroll == 0
        || s.unroll > 64
        || s.tile == 0
        || s.tile > 1 << 16
    {
        return Err(Refusal(
            "out of range: block is 1 to 16, unroll 1 to 64, tile 1 to 65536, tiles 1 to 64".into(),
        ));
    }
    let unit = target.gpu.is_some() && options.compute == Ty::F32;
    if s.exp2 > EXP2_OF || s.exp2 > 0 && !unit {
        return Err(Refusal(format!(
            "exp2={} does not fit: it is of {EXP2_OF} powers of two those that a GPU's exponential unit is spared, in f32; use exp2=1 to {EXP2_OF} there, else none",
            s.exp2
        )));
    }
    if s.lanes * s.block > 1 && structure.lane.is_none() {
        return Err(Refusal(format!(
            "{} has no axis whose points are independent, so no lanes; use lanes=1 block=1",
            rec.name
        )));
    }
    let width = i64::from(s.lanes * s.block);
    for id in rec.graph.reachable(&rec.roots()) {
        if let Node::Input { index, .. } = rec.graph.node(id) {
            for i in index {
                let AxisIndex::Group { of, groups } = i else {
                    continue;
                };
                if Some(*of) != structure.lane || width == 1 {
                    continue;
                }
                let (axis, of, groups) = (
                    of,
                    &pass.extents[of.0 as usize],
                    &pass.extents[groups.0 as usize],
                );
                let whole = matches!((of, groups), (Ix::Const(n), Ix::Const(g)) if *g > 0 && (n / g) % width == 0);
                if !whole {
                    return Err(Refusal(format!(
                        "groups of {} do not hold whole blocks of {width}; use fewer lanes or a smaller block",
                        rec.axis_name(*axis)
                    )));
                }
            }
        }
    }
    match s.order {
        Order::Registers => {
            let copies = copies(pass).saturating_mul(u64::from(s.block));
            if copies > MOST_COPIES {
                return Err(Refusal(format!(
                    "order=registers would unroll {} to {copies} operations (at most {MOST_COPIES}); use order=tiled or order=stepped",
                    rec.name
                )));
            }
        }
        Order::Tiled => {
            if let Some(why) = &structure.untileable {
                return Err(Refusal(format!(
                    "order=tiled does not fit {}: {why}; use order=stepped",
                    rec.name
                )));
            }
        }
        Order::Stepped => {}
        Order::Scanned => check_scanned(pass)?,
        Order::Staged => check_staged(pass, options, target)?,
    }
    check_saved(pass)?;
    check_threads(pass, target)?;
    let scratch = scratch_points(pass)
        .saturating_mul(u64::from(s.lanes * s.block))
        .saturating_mul(if s.order == Order::Tiled {
            u64::from(s.tile)
        } else {
            1
        });
    if scratch > 1 << 28 {
        return Err(Refusal(format!(
            "{} would need {scratch} elements of scratch memory a thread; use a smaller tile or block",
            rec.name
        )));
    }
    Ok(())
}

/// An extent that is compiled in; 1 for others.
fn known(pass: &Pass, axis: AxisId) -> u64 {
    match pass.extents[axis.0 as usize] {
        Ix::Const(n) => n.unsigned_abs(),
        _ => 1,
    }
}

/// The inner points at which a node is computed.
pub(crate) fn points(pass: &Pass, axes: impl Iterator<Item = AxisId>) -> u64 {
    axes.fold(1, |n, a| n.saturating_mul(known(pass, a)))
}

/// How many node copies a fully unrolled body has.
fn copies(pass: &Pass) -> u64 {
    let rec = &pass.recurrence;
    let live = rec.graph.reachable(&rec.roots()).into_iter();
    live.fold(0, |sum, id| {
        sum.saturating_add(points(pass, pass.structure.inner_axes(rec, id).iter()))
    })
}

/// The largest count of inner points that any one value has.
fn scratch_points(pass: &Pass) -> u64 {
    let rec = &pass.recurrence;
    let states = rec
        .states
        .iter()
        .map(|s| points(pass, s.axes.iter().copied()));
    let live = rec.graph.reachable(&rec.roots()).into_iter();
    live.map(|id| points(pass, pass.structure.inner_axes(rec, id).iter()))
        .chain(states)
        .max()
        .unwrap_or(1)
}
