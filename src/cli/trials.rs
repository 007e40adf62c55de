//! What a model is tested with. In: a model, a kernel of it. Out: [`Trial`]s: types, options, shapes; and the schedules
//! that each is run by.

use std::collections::BTreeSet;
use std::mem::discriminant;

use selscan_codegen::structure::Structure;
use selscan_codegen::{Dtype, candidates};
use selscan_dsl::{Array, AxisId, AxisIndex, AxisSet, Extents, Inputs, Node, Recurrence};
use selscan_models::Model;
use selscan_runtime::{Error, Kernel, OwnedArgs, Schedule, Spec};

/// Steps of the longer trials: several chunks, the last one short; and none short.
const STEPS: [usize; 2] = [131, 144];
/// Steps of whole tiles only, however many threads share one.
const TILES: usize = 256;
/// Points of the axis that blocks run over: more than a block's threads, and odd; whole blocks of a multiple of the second.
const WIDE: usize = 151;
const WHOLE: usize = 32;
/// State points of a trial, about.
const POINTS: usize = 600_000;

/// The arguments of one test.
pub struct Trial {
    pub dtype: Dtype,
    pub inputs: Inputs,
    /// Its shape, in words.
    pub shape: String,
    /// What it has, in words.
    pub what: &'static str,
    /// How many schedules of each kind it is run by; 0 is the default schedule alone.
    pub schedules: usize,
}

/// What a call has beside required inputs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Nothing,
    Options,
    Initial,
    Packed,
}

/// The trials of a model.
pub fn trials(model: &Model, kernel: &Kernel, quick: bool) -> Result<Vec<Trial>, Error> {
    use With::{Initial, Nothing, Options, Packed};
    let r = kernel.recurrence();
    let small = Model::extents(r, model.small);
    let wide = widened(model, kernel, &small, STEPS[0], false)?;
    let whole = widened(model, kernel, &small, STEPS[1], true)?;
    let tiles = widened(model, kernel, &small, TILES, true)?;
    let steps = |n: usize| {
        let mut extents = small.clone();
        extents.0[r.time.0 as usize] = n;
        extents
    };
    let mut out = Vec::new();
    let mut add = |dtype, with, extents: &Extents, schedules| {
        out.push(trial(model, r, extents, dtype, with, schedules));
    };
    let full: &[Dtype] = if quick {
        &[Dtype::F32, Dtype::Bf16]
    } else {
        &Dtype::ALL
    };
    for &dtype in full {
        add(dtype, Options, &wide, if quick { 1 } else { 3 });
        add(dtype, Initial, &steps(0), 0);
        add(dtype, Initial, &steps(1), 0);
        if !quick {
            add(dtype, Nothing, &small, 1);
            add(dtype, Initial, &wide, 1);
        }
    }
    add(Dtype::F32, Packed, &wide, 1);
    add(Dtype::Bf16, Initial, &whole, 1);
    let mut broken = whole.clone();
    broken.0[r.time.0 as usize] = STEPS[0];
    add(Dtype::F32, Options, &broken, 0);
    add(Dtype::Bf16, Initial, &tiles, 0);
    if !quick {
        add(Dtype::F32, Packed, &whole, 1);
        add(Dtype::Bf16, Packed, &small, 0);
        add(Dtype::F16, Options, &steps(2), 0);
    }
    Ok(out)
}

fn trial(
    model: &Model,
    r: &Recurrence,
    extents: &Extents,
    dtype: Dtype,
    with: With,
    schedules: usize,
) -> Trial {
    let mut inputs = model.sample(r, extents, &|_| with != With::Nothing, with as u64);
    if with == With::Initial {
        for state in &r.states {
            let mut x = Array::filled(&extents.shape(&state.axes), state.complex, 0.0);
            for (i, x) in x.data.iter_mut().enumerate() {
                *x = f64::from(i as u32 % 7) / 8.0 - 0.375;
            }
            inputs = inputs.with_initial(&state.name, x);
        }
    }
    if with == With::Packed {
        let axes: Vec<AxisId> = r.batch_axis().into_iter().chain([r.time]).collect();
        let shape = extents.shape(&axes);
        let tokens: usize = shape.iter().product();
        // Sequences of 2, 3, 1 and 1 steps, and so on.
        let sequence = |i: usize| [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0][i % 7] + 4.0 * (i / 7) as f64;
        inputs = inputs.with_seq_idx(Array::real(&shape, (0..tokens).map(sequence).collect()));
    }
    let own = (0..r.axes.len()).filter(|&i| r.axes[i].alias_of.is_none());
    let shape: Vec<String> = own
        .map(|i| format!("{}={}", r.axes[i].name, extents.0[i]))
        .collect();
    Trial {
        dtype,
        inputs,
        shape: shape.join(" "),
        what: match with {
            With::Nothing => "no options,",
            With::Options => "all options,",
            With::Initial => "initial states,",
            With::Packed => "packed sequences,",
        },
        schedules,
    }
}

/// Larger extents on the axes that code is not fixed to: odd numbers of steps and lanes, or whole blocks of them.
fn widened(
    model: &Model,
    kernel: &Kernel,
    small: &Extents,
    steps: usize,
    whole: bool,
) -> Result<Extents, Error> {
    let r = kernel.recurrence();
    let sample = model.sample(r, small, &|_| true, 0);
    let args = OwnedArgs::from_inputs(&sample, Dtype::F32)?;
    let (spec, _) = kernel.resolve(&args)?;
    let plans = kernel.plan(&spec, small)?;
    let grouped = grouped(r);
    let free = |axis: AxisId| {
        let run_time = |p: &selscan_codegen::Plan| p.extent_names[axis.0 as usize].is_some();
        plans.iter().all(run_time) && !grouped.contains(axis)
    };
    let mut wide = small.clone();
    let mut set = |axis: AxisId, extent: usize| {
        for i in 0..r.axes.len() as u8 {
            if r.canonical(AxisId(i)) == axis {
                wide.0[i as usize] = extent;
            }
        }
    };
    set(r.time, steps);
    let scans = kernel.scans(&spec)?;
    let lane = scans
        .first()
        .and_then(|s| Structure::of(&s.recurrence).lane);
    if let Some(lane) = lane
        .map(|a| r.canonical(a))
        .filter(|&a| a != r.time && free(a))
    {
        let others = |axes: &[AxisId]| -> usize {
            axes.iter()
                .filter(|&&a| r.canonical(a) != lane)
                .map(|&a| small.get(a))
                .product()
        };
        let most = r
            .states
            .iter()
            .map(|s| others(&s.axes))
            .max()
            .unwrap_or(1)
            .max(1);
        let points = (POINTS / steps / most).clamp(small.get(lane), WIDE);
        set(
            lane,
            match whole {
                true => (points / WHOLE).max(1) * WHOLE,
                false => points | 1,
            },
        );
    }
    Ok(wide)
}

/// Axes whose extents belong together.
fn grouped(r: &Recurrence) -> AxisSet {
    let mut all = AxisSet::EMPTY;
    for id in r.graph.ids() {
        if let Node::Input { index, .. } | Node::State { index, .. } = r.graph.node(id) {
            for i in index {
                if let AxisIndex::Group { of, groups } = *i {
                    all = all.with(r.canonical(of)).with(r.canonical(groups));
                }
            }
        }
    }
    all
}

/// The schedules that a trial is run by, each with one for every stage, the default first.
pub fn schedules(
    kernel: &Kernel,
    spec: &Spec,
    extents: &Extents,
    trial: &Trial,
) -> Result<Vec<Vec<Schedule>>, Error> {
    let r = kernel.recurrence();
    let options = spec.options(r);
    let mut stages = Vec::new();
    for scan in kernel.scans(spec)? {
        let all = candidates(&scan, extents, &options, kernel.device().target());
        let mut chosen: Vec<Schedule> = Vec::new();
        let mut kinds = Vec::new();
        let kind_of = |s: &Schedule| (discriminant(&s.algorithm), s.order, s.several_under_way());
        for s in &all {
            let kind = kind_of(s);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        for kind in kinds {
            let of_kind: Vec<Schedule> =
                all.iter().copied().filter(|s| kind_of(s) == kind).collect();
            // Evenly spread over those there are.
            let few = trial.schedules.min(of_kind.len());
            let spread = (0..few).map(|i| i * (of_kind.len() - 1) / few.saturating_sub(1).max(1));
            chosen.extend(
                spread
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .map(|i| of_kind[i]),
            );
        }
        if let Some(first) = all.first() {
            chosen.retain(|s| s != first);
            chosen.insert(0, *first);
        }
        stages.push(chosen);
    }
    let longest = stages.iter().map(Vec::len).max().unwrap_or(0);
    let pick = |i: usize| {
        stages
            .iter()
            .filter_map(|s| s.get(i).or(s.last()))
            .copied()
            .collect()
    };
    let mut all: Vec<Vec<Schedule>> = (0..longest).map(pick).collect();
    if all.is_empty() {
        // No schedule fits a shape without points, and none is needed: nothing is compiled.
        all.push(Vec::new());
    }
    Ok(all)
}
