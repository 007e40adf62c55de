//! Gradients of the oracle's random recurrences: by compiled kernels in every type, over chunks of any length, by random
//! schedules, on one thread and two, twice with the same bits; by plans of a GPU under the interpreter. Some of what there is
//! to differentiate by is asked for, some of the cotangents are given.
//!
//! `SELSCAN_ORACLE_CASES=N` runs N recurrences instead of the default.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selscan_codegen::{Order, Schedule, Target, Ty};
use selscan_dsl::{Array, Extents, Inputs, Outputs, Recurrence, gradients, gradients_with_bound};
use selscan_runtime::{Cpu, Dtype, Error, Kernel, OwnedArgs, OwnedResults, Tensor};

use crate::generate::{Tape, generate};
use crate::inputs::inputs;
use crate::{cpu, interpreted, near, numbers};

fn cases() -> u32 {
    let cases = std::env::var("SELSCAN_ORACLE_CASES").ok();
    cases.and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// How a report of wrong numbers begins.
const WRONG: &str = "wrong: ";

/// How many of what ran.
#[derive(Default, Debug)]
struct Counts {
    recurrences: usize,
    without_steps: usize,
    packed: usize,
    /// By order: tiled, registers, stepped.
    orders: [usize; 3],
    refused: usize,
    interpreted: usize,
    /// Wrong numbers beside a kink.
    rough: usize,
    lanes: usize,
}

struct Choices<F>(F);

impl<F: FnMut() -> f64> Choices<F> {
    fn below(&mut self, n: usize) -> usize {
        ((self.0() + 1.0) / 2.0 * n as f64) as usize % n
    }
    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// Up to 8 steps of a chunk, or as many as there are, one more, one less.
    fn steps(&mut self, all: usize) -> u32 {
        let all = all as u32;
        match self.below(4) {
            0 => self.pick(&[all.saturating_sub(1), all, all + 1]).max(1),
            _ => 1 + self.below(8) as u32,
        }
    }
    fn schedule(&mut self, target: &Target, dtype: Dtype) -> Schedule {
        let whole = target.lanes(match compute(dtype) {
            Dtype::F64 => Ty::F64,
            _ => Ty::F32,
        });
        let order = self.pick(&Order::ALL[..3]);
        Schedule {
            lanes: self.pick(&[1, if target.gpu.is_some() { 32 } else { whole }]),
            block: 1 + self.below(3) as u32,
            unroll: 1 + self.below(4) as u32,
            tile: 1 + self.below(8) as u32,
            ..Schedule::plain(order)
        }
    }
}

fn compute(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::F64 => Dtype::F64,
        _ => Dtype::F32,
    }
}

/// A case, its cotangents, what is asked for, and what that means.
struct Job {
    r: Recurrence,
    extents: Extents,
    args: OwnedArgs,
    cotangents: OwnedResults,
    by: Vec<String>,
    dtype: Dtype,
    meaning: (Inputs, Inputs),
}

impl Job {
    fn by(&self) -> Vec<&str> {
        self.by.iter().map(String::as_str).collect()
    }

    /// Runs a kernel twice; or says why its schedule is refused.
    fn check(&self, kernel: &Kernel) -> Result<Option<String>, String> {
        let run = || kernel.run_gradients(&self.args, &self.cotangents, &self.by());
        let found = match run() {
            Ok((_, found)) => found,
            Err(Error::Refused(why)) => return Ok(Some(why.to_string())),
            Err(e) => return Err(e.to_string()),
        };
        found.check_gradients(&self.r, compute(self.dtype), &self.meaning)?;
        let (_, again) = run().map_err(|e| e.to_string())?;
        match format!("{found:?}") == format!("{again:?}") {
            true => Ok(None),
            false => Err("the second run gives other bits".to_owned()),
        }
    }

    /// Whether numbers as near as the arithmetic can tell have other gradients: there is a kink between them.
    fn is_rough(&self, random: &mut Choices<impl FnMut() -> f64>) -> bool {
        let epsilon = 4.0 * compute(self.dtype).epsilon();
        (0..8).any(|_| {
            let mut inputs = self.args.to_inputs(&self.r);
            let all = inputs.tensors.values_mut();
            for array in all.chain(inputs.initial.values_mut()) {
                array
                    .data
                    .iter_mut()
                    .for_each(|x| *x += *x * epsilon * random.0());
            }
            let cotangents = self.cotangents.to_outputs(&self.r);
            let moved = gradients(&self.r, &inputs, &cotangents, &self.by()).unwrap();
            let moved = OwnedArgs::from_inputs(&moved, self.dtype).unwrap();
            let near = moved.check_gradients(&self.r, compute(self.dtype), &self.meaning);
            near.is_err()
        })
    }

    /// The interpreter's gradients by a plan of a GPU.
    fn interpret(&self, target: &Target, schedule: &Schedule) -> Result<bool, String> {
        let mut cotangents = self.cotangents.to_outputs(&self.r);
        let Outputs { tensors, last } = &mut cotangents;
        let zeros = |axes: &[_], complex| Array::filled(&self.extents.shape(axes), complex, 0.0);
        for o in &self.r.outputs {
            let d = tensors.entry(o.name.clone());
            d.or_insert_with(|| zeros(&o.axes, o.complex));
        }
        for s in &self.r.states {
            let d = last.entry(s.name.clone());
            d.or_insert_with(|| zeros(&s.axes, s.complex));
        }
        let inputs = self.args.to_inputs(&self.r);
        let found = interpreted::gradients(
            &self.r,
            &inputs,
            &self.extents,
            &cotangents,
            &self.by(),
            (target, schedule),
        )?;
        found.map_or(Ok(false), |found| {
            near(&found, &self.meaning).map(|()| true)
        })
    }

    /// Runs it by compiled kernels and, in f64, by the interpreter.
    fn tries(
        &self,
        random: &mut Choices<impl FnMut() -> f64>,
        cpus: &[Cpu],
        counts: &mut Counts,
    ) -> Result<(), String> {
        let steps = self.extents.get(self.r.time);
        for own_schedule in [false, true, true] {
            let own = random.steps(steps);
            let kernel = random.pick(&[&cpus[0], &cpus[1]]).kernel(self.r.clone());
            let kernel = kernel.with_checkpoint_steps(own);
            if !own_schedule {
                let refused = self
                    .check(&kernel)
                    .map_err(|why| format!("chunks of {own}: {why}"))?;
                if let Some(why) = refused {
                    return Err(format!("chunks of {own}: no schedule fits: {why}"));
                }
                continue;
            }
            let schedule = random.schedule(kernel.device().target(), self.dtype);
            let refused = self.check(&kernel.with_backward_schedule(schedule));
            let refused = refused.map_err(|why| format!("chunks of {own}, '{schedule}': {why}"))?;
            match Order::ALL.iter().position(|&o| o == schedule.order) {
                Some(order) if refused.is_none() => counts.orders[order] += 1,
                _ => counts.refused += 1,
            }
        }
        let target = Target::h200();
        for _ in 0..if self.dtype == Dtype::F64 && steps > 0 {
            4
        } else {
            0
        } {
            let schedule = Schedule {
                save: random.steps(steps),
                ..random.schedule(&target, self.dtype)
            };
            let ran = self.interpret(&target, &schedule);
            if ran.map_err(|why| format!("interpreted '{schedule}': {why}"))? {
                counts.interpreted += 1;
                counts.lanes += usize::from(schedule.lanes > 1);
            }
        }
        Ok(())
    }
}

/// The case of a tape, in a random type.
fn job(tape: &[u8], random: &mut Choices<impl FnMut() -> f64>, cpu: &Cpu) -> Result<Job, String> {
    let case = generate(&mut Tape::new(tape));
    let r = Recurrence::parse(&case.text).map_err(|e| format!("{}\n{e}", case.text))?;
    let (inputs, extents) = inputs(&case, &r, &mut random.0);
    let mut dtype = random.pick(&[Dtype::F64, Dtype::F32, Dtype::Bf16]);
    if case.text.contains("max::<") {
        // States forget how they differed, and then rounding decides which is the greatest.
        dtype = Dtype::F64;
    }
    let args = OwnedArgs::from_inputs(&inputs, dtype).map_err(|e| e.to_string())?;
    let mut cotangents = cpu
        .kernel(r.clone())
        .results(&args)
        .map_err(|e| e.to_string())?;
    cotangents.outputs.retain(|_, _| !random.one_in(5));
    cotangents.last.retain(|_, _| !random.one_in(3));
    let all = cotangents.outputs.values_mut();
    for tensor in all.chain(cotangents.last.values_mut()) {
        let data: Vec<f64> = (0..tensor.len()).map(|_| random.0()).collect();
        *tensor =
            Tensor::from_f64(tensor.dtype(), tensor.shape(), &data).map_err(|e| e.to_string())?;
    }
    let states = r.states.iter().map(|s| s.name.clone());
    let mut by: Vec<String> = args.inputs.keys().cloned().chain(states).collect();
    let one = by[random.below(by.len())].clone();
    by.retain(|name| *name == one || !random.one_in(3));
    let names: Vec<&str> = by.iter().map(String::as_str).collect();
    let given = args.to_inputs(&r);
    let meaning = gradients_with_bound(&r, &given, &cotangents.to_outputs(&r), &names);
    Ok(Job {
        meaning: meaning.map_err(|e| format!("{e}\n{r}"))?,
        r,
        extents,
        args,
        cotangents,
        by,
        dtype,
    })
}

fn check(tape: &[u8], seed: u64, cpus: &[Cpu], counts: &mut Counts) -> Result<(), String> {
    let mut random = Choices(numbers(seed));
    let job = job(tape, &mut random, &cpus[0])?;
    counts.recurrences += 1;
    counts.without_steps += usize::from(job.extents.get(job.r.time) == 0);
    counts.packed += usize::from(job.args.seq_idx.is_some());
    match job.tries(&mut random, cpus, counts) {
        Err(why) if why.contains(WRONG) && job.is_rough(&mut random) => counts.rough += 1,
        Err(why) => {
            let (outputs, last) = (&job.cotangents.outputs, &job.cotangents.last);
            return Err(format!(
                "{why}\n{}by {:?}, cotangents of {:?} and {:?}, extents {:?}, {}, packed {}, initial {}",
                job.r,
                job.by,
                outputs.keys(),
                last.keys(),
                job.extents,
                job.dtype,
                job.args.seq_idx.is_some(),
                !job.args.initial.is_empty(),
            ));
        }
        Ok(()) => {}
    }
    Ok(())
}

#[test]
fn random_recurrences_have_gradients() {
    let config = Config {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let counts = std::cell::RefCell::new(Counts::default());
    let cpus = [cpu(1), cpu(2)];
    let tape = prop::collection::vec(any::<u8>(), 0..160);
    let result = TestRunner::new(config).run(&(tape, any::<u64>()), |(tape, seed)| {
        check(&tape, seed, &cpus, &mut counts.borrow_mut()).map_err(TestCaseError::fail)
    });
    let counts = counts.into_inner();
    println!("gradients: {counts:?}");
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(counts.orders.iter().all(|&n| n > 0), "{counts:?}");
    assert!(counts.rough <= 1 + cases() as usize / 50, "{counts:?}");
    assert!(counts.interpreted > 0 && counts.packed > 0, "{counts:?}");
}
