//! Compares a kernel's results with the f64 meaning: |y − y64| ≤ K·eps·m for every element, m the running error bound.
//!
//! In: a job and its results. Out: [`Check`]. The meaning is taken in blocks along a parallel axis, on all cores;
//! where it would take long, on evenly spread points of the parallel axes (each such point over all of time).

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use selscan_codegen::{Dtype, Ty};
use selscan_dsl::{Array, Inputs, Outputs, Recurrence, eval_with_bound};
use selscan_runtime::{OwnedResults, Sample, TOLERANCE};

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

/// Compares results with the f64 meaning, whole or a sample.
pub fn check(job: &Job, results: &OwnedResults, full: bool) -> Result<Check, Failure> {
    let r = &job.source.recurrence;
    let inputs = job.args.to_inputs(r);
    let found = results.to_outputs(r);
    let sample = match full {
        true => Sample::all(&job.kernel, &job.spec, &job.extents)?,
        false => Sample::of(&job.kernel, &job.spec, &job.extents, SAMPLE)?,
    };
    let parts = sample.parts(BLOCKS);
    let bar = ProgressBar::new(parts.len() as u64).with_style(style());
    bar.set_message("f64 meaning");
    let total = Mutex::new(Ok(Check::default()));
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(parts.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let part = compare(job, &inputs, &found, results, part);
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

/// Takes the meaning of a sample and compares.
fn compare(
    job: &Job,
    inputs: &Inputs,
    found: &Outputs,
    results: &OwnedResults,
    sample: &Sample,
) -> Result<Check, Failure> {
    let r = &job.source.recurrence;
    let meaning = eval_with_bound(r, &sample.inputs(r, inputs))?;
    let found = sample.outputs(r, found);
    Ok(against(r, job.spec.compute(), &meaning, (&found, results)))
}

/// Compares what was found, all or some of `results`, with its meaning and its bound.
fn against(
    r: &Recurrence,
    compute: Ty,
    (wanted, bound): &(Outputs, Outputs),
    (found, results): (&Outputs, &OwnedResults),
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
        let arrays = (
            wanted.tensors.get(&decl.name),
            bound.tensors.get(&decl.name),
            found.tensors.get(&decl.name),
        );
        check.numbers(&decl.name, arrays, eps(results.outputs.get(&decl.name)));
    }
    for decl in &r.states {
        let arrays = (
            wanted.last.get(&decl.name),
            bound.last.get(&decl.name),
            found.last.get(&decl.name),
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
    let check = against(r, compute, meaning, (&found, results));
    Check {
        of: check.compared,
        ..check
    }
}

impl Check {
    fn numbers(
        &mut self,
        name: &str,
        arrays: (Option<&Array>, Option<&Array>, Option<&Array>),
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
