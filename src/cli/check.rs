//! Compares a kernel's results with the f64 meaning: |y − y64| ≤ K·eps·m for every element, m the running error bound.
//!
//! In: a job and its results. Out: [`Check`]. The meaning is taken in blocks along a parallel axis, on all cores;
//! where it would take long, on evenly spread points of the parallel axes (each such point over all of time).

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use selscan_codegen::structure::Structure;
use selscan_codegen::{Dtype, Ty};
use selscan_dsl::{
    Array, AxisId, AxisIndex, InputKind, Inputs, Node, Outputs, Recurrence, eval_with_bound,
};
use selscan_runtime::{OwnedResults, TOLERANCE};

use super::failure::Failure;
use super::job::Job;

/// State points that a sample has at most, about a second's worth.
const SAMPLE: f64 = 4e6;
/// Blocks that the work is cut into: steps of the progress bar.
const BLOCKS: usize = 48;

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Numbers compared.
    pub compared: usize,
    /// Numbers that there are.
    pub of: usize,
    /// The largest |y − y64| / (eps·m).
    pub worst: f64,
    /// Numbers outside of the tolerance.
    pub wrong: usize,
    /// The first of them, in words.
    pub first: Option<String>,
}

/// The positions that are compared on every axis.
type Keep = Vec<Vec<usize>>;

/// Compares results with the f64 meaning, whole or a sample.
pub fn check(job: &Job, results: &OwnedResults, full: bool) -> Result<Check, Failure> {
    let r = &job.source.recurrence;
    let inputs = job.args.to_inputs(r);
    let found = results.to_outputs(r);
    let axes = parallel(job)?;
    let mut keep: Keep = job.extents.0.iter().map(|&n| (0..n).collect()).collect();
    let mut causal = true;
    if !full {
        let mut points = job.points();
        let mut widest = axes.clone();
        widest.sort_by_key(|&a| std::cmp::Reverse(job.extents.get(a)));
        for axis in widest {
            points *= thin(r, &mut keep, axis, SAMPLE / points);
        }
        // Later steps do not change earlier outputs: a beginning can be compared.
        if points > SAMPLE && is_causal(r) {
            let steps = job.extents.get(r.time);
            let few = ((steps as f64 * SAMPLE / points) as usize).clamp(1.min(steps), steps);
            keep[r.time.0 as usize].truncate(few);
            causal = few == steps;
        }
    }
    let blocks = blocks(r, &keep, &axes);
    let bar = ProgressBar::new(blocks.len() as u64).with_style(style());
    bar.set_message("f64 meaning");
    let total = Mutex::new(Ok(Check::default()));
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(blocks.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(keep) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let part = compare(job, &inputs, &found, results, keep, causal);
                    bar.inc(1);
                    if let Ok(mut total) = total.lock() {
                        match (&mut *total, part) {
                            (Ok(total), Ok(part)) => total.add(part),
                            (Ok(_), Err(e)) => *total = Err(e),
                            (Err(_), _) => {}
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let total = total
        .into_inner()
        .map_err(|_| Failure::Internal("a thread panicked".into()))?;
    let all = found.tensors.values().chain(found.last.values());
    Ok(Check {
        of: all.map(|x| x.data.len()).sum(),
        ..total?
    })
}

/// The look of progress bars.
pub fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Check {
    fn add(&mut self, part: Check) {
        self.compared += part.compared;
        self.wrong += part.wrong;
        self.worst = if part.worst > self.worst || part.worst.is_nan() {
            part.worst
        } else {
            self.worst
        };
        self.first = self.first.take().or(part.first);
    }

    /// In words.
    pub fn text(&self) -> String {
        let part = if self.compared == self.of {
            "all".to_owned()
        } else {
            format!("{} of", self.compared)
        };
        match self.wrong {
            0 => format!(
                "{part} {} numbers against the f64 meaning: right, error at most {:.2} eps·m of {TOLERANCE} allowed",
                self.of, self.worst
            ),
            wrong => format!(
                "{part} {} numbers against the f64 meaning: {wrong} WRONG",
                self.of
            ),
        }
    }

    /// What is wrong, if anything.
    pub fn failure(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(format!(
            "{} of {} numbers compared differ from the f64 meaning by more than the tolerance; the first: {first}",
            self.wrong, self.compared
        ))
    }
}

/// Axes whose points never meet, in any stage, and whose positions and extents are not themselves computed with.
fn parallel(job: &Job) -> Result<Vec<AxisId>, Failure> {
    let r = &job.source.recurrence;
    let scans = job.kernel.scans(&job.spec)?;
    let structures: Vec<Structure> = scans.iter().map(|s| Structure::of(&s.recurrence)).collect();
    let used = |axis: AxisId| {
        r.graph.ids().any(|id| match r.graph.node(id) {
            Node::Index(a) | Node::Extent(a) => *a == axis,
            Node::Input { index, .. } | Node::State { index, .. } => {
                index.iter().any(|i| match i {
                    AxisIndex::Group { of, groups } => *of == axis || *groups == axis,
                    AxisIndex::At(a) => *a != axis && r.canonical(*a) == axis,
                })
            }
            _ => false,
        })
    };
    let fits =
        |&axis: &AxisId| structures.iter().all(|s| s.parallel.contains(&axis)) && !used(axis);
    let mut axes = structures.first().map_or(vec![], |s| s.parallel.clone());
    axes.retain(fits);
    Ok(axes)
}

/// Keeps evenly spread positions of an axis, about `part` of them, the first and the last among them; says which part
/// is kept.
fn thin(r: &Recurrence, keep: &mut Keep, axis: AxisId, part: f64) -> f64 {
    let own = &mut keep[r.canonical(axis).0 as usize];
    let n = own.len();
    let few = ((n as f64 * part).ceil() as usize).max(2);
    if part >= 1.0 || few >= n {
        return 1.0;
    }
    *own = (0..few).map(|i| i * (n - 1) / (few - 1)).collect();
    few as f64 / n as f64
}

/// Whether an output depends on no later step.
fn is_causal(r: &Recurrence) -> bool {
    let time = r.time;
    r.states.iter().all(|s| !s.reverse)
        && !r
            .graph
            .ids()
            .any(|id| matches!(r.graph.node(id), Node::Extent(a) if *a == time))
}

/// The positions kept, cut along the parallel axis that has most of them.
fn blocks(r: &Recurrence, keep: &Keep, axes: &[AxisId]) -> Vec<Keep> {
    let Some(&axis) = axes.iter().max_by_key(|a| keep[a.0 as usize].len()) else {
        return vec![keep.clone()];
    };
    let at = r.canonical(axis).0 as usize;
    let size = keep[at].len().div_ceil(BLOCKS).max(1);
    let block = |part: &[usize]| {
        let mut block = keep.clone();
        block[at] = part.to_vec();
        block
    };
    let blocks: Vec<Keep> = keep[at].chunks(size).map(block).collect();
    if blocks.is_empty() {
        vec![keep.clone()]
    } else {
        blocks
    }
}

/// The elements at the kept positions.
fn gather(array: &Array, axes: &[AxisId], keep: &Keep) -> Array {
    let width = if array.complex { 2 } else { 1 };
    let mut starts = vec![0usize];
    let mut shape = Vec::with_capacity(axes.len());
    for (&axis, &extent) in axes.iter().zip(&array.shape) {
        // An axis of extent 1 that is an alias, or a shape that is wrong, is found by the meaning itself.
        let own = &keep[axis.0 as usize];
        starts = starts
            .iter()
            .flat_map(|&s| own.iter().map(move |&i| s * extent + i))
            .collect();
        shape.push(own.len());
    }
    let data = starts
        .iter()
        .flat_map(|&s| &array.data[s * width..(s + 1) * width])
        .copied()
        .collect();
    Array {
        shape,
        complex: array.complex,
        data,
    }
}

/// Takes the meaning at the kept positions and compares.
fn compare(
    job: &Job,
    inputs: &Inputs,
    found: &Outputs,
    results: &OwnedResults,
    keep: &Keep,
    with_last: bool,
) -> Result<Check, Failure> {
    let r = &job.source.recurrence;
    // Aliases are kept as what they stand for.
    let keep: Keep = (0..keep.len())
        .map(|i| keep[r.canonical(AxisId(i as u8)).0 as usize].clone())
        .collect();
    let mut part = Inputs {
        flags: inputs.flags.clone(),
        ..Inputs::default()
    };
    for decl in r.inputs.iter().filter(|i| i.kind == InputKind::Tensor) {
        if let Some(x) = inputs.tensors.get(&decl.name) {
            part.tensors
                .insert(decl.name.clone(), gather(x, &decl.axes, &keep));
        }
    }
    for decl in &r.states {
        if let Some(x) = inputs.initial.get(&decl.name) {
            part.initial
                .insert(decl.name.clone(), gather(x, &decl.axes, &keep));
        }
    }
    if let Some(x) = &inputs.seq_idx {
        let axes: Vec<AxisId> = r.batch_axis().into_iter().chain([r.time]).collect();
        part.seq_idx = Some(gather(x, &axes, &keep));
    }
    let meaning = eval_with_bound(r, &part)?;
    let at_kept = |x: &Array, axes: &[AxisId]| gather(x, axes, &keep);
    Ok(against(
        r,
        job.spec.compute(),
        &meaning,
        (found, results),
        &at_kept,
        with_last,
    ))
}

/// Compares results, of which `part` gives what the meaning was taken of, with a meaning and its bound.
fn against(
    r: &Recurrence,
    compute: Ty,
    (wanted, bound): &(Outputs, Outputs),
    (found, results): (&Outputs, &OwnedResults),
    part: &dyn Fn(&Array, &[AxisId]) -> Array,
    with_last: bool,
) -> Check {
    let mut check = Check::default();
    let arithmetic = if compute == Ty::F64 {
        Dtype::F64
    } else {
        Dtype::F32
    };
    let eps = |t: Option<&selscan_runtime::Tensor>| {
        t.map_or(arithmetic, |t| t.dtype())
            .epsilon()
            .max(arithmetic.epsilon())
    };
    for decl in &r.outputs {
        let whole = found.tensors.get(&decl.name).map(|x| part(x, &decl.axes));
        let arrays = (
            wanted.tensors.get(&decl.name),
            bound.tensors.get(&decl.name),
            whole,
        );
        check.numbers(&decl.name, arrays, eps(results.outputs.get(&decl.name)));
    }
    for decl in r.states.iter().filter(|_| with_last) {
        let whole = found.last.get(&decl.name).map(|x| part(x, &decl.axes));
        let arrays = (
            wanted.last.get(&decl.name),
            bound.last.get(&decl.name),
            whole,
        );
        check.numbers(
            &format!("last_{}", decl.name),
            arrays,
            eps(results.last.get(&decl.name)),
        );
    }
    check
}

/// Compares all of a run's results with its meaning and its bound.
pub fn whole(
    r: &Recurrence,
    compute: Ty,
    meaning: &(Outputs, Outputs),
    results: &OwnedResults,
) -> Check {
    let found = results.to_outputs(r);
    let all = |x: &Array, _: &[AxisId]| x.clone();
    let check = against(r, compute, meaning, (&found, results), &all, true);
    Check {
        of: check.compared,
        ..check
    }
}

impl Check {
    fn numbers(
        &mut self,
        name: &str,
        arrays: (Option<&Array>, Option<&Array>, Option<Array>),
        eps: f64,
    ) {
        let (Some(wanted), Some(bound), Some(found)) = arrays else {
            return;
        };
        for (i, ((&y, &m), &x)) in wanted
            .data
            .iter()
            .zip(&bound.data)
            .zip(&found.data)
            .enumerate()
        {
            self.compared += 1;
            // Where the meaning is no number, or its bound is none, nothing can be said.
            if x == y || !y.is_finite() || !m.is_finite() {
                continue;
            }
            let error = (x - y).abs() / (eps * m);
            if error > self.worst || error.is_nan() {
                self.worst = error;
            }
            if error.is_nan() || error > TOLERANCE {
                self.wrong += 1;
                self.first.get_or_insert_with(|| {
                    format!("`{name}` number {i} of the block is {x:e}, not {y:e}")
                });
            }
        }
    }
}
