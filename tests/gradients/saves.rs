//! Forward runs that save states, by the orders of a GPU that save them on the way, under the interpreter: chunks of one step,
//! of a part of a run, of no whole run, of several; time that ends before, with and after one; packed sequences; from the
//! first step to the last and back.

use selscan_codegen::interp::{Memory, interp};
use selscan_codegen::loop_ir::Role;
use selscan_codegen::{
    Algorithm, Dtype, Options, Order, Plan, Refusal, Schedule, Target, Ty, default_plan, lower,
};
use selscan_dsl::{Extents, InputId, Inputs, Outputs, Scan, StateId, eval_with_bound, prepare};
use selscan_models::{Model, model};

use crate::interpreted::{before, given, saved};
use crate::options;

/// Orders, one after another.
const ORDERS: [Order; 3] = [Order::Staged, Order::Scanned, Order::Registers];

/// A forward run that is wanted for a gradient.
struct Job {
    scan: Scan,
    extents: Extents,
    inputs: Inputs,
    options: Options,
    /// The states before each step, and how large they were on the way.
    before: (Outputs, Outputs),
    /// The outputs likewise.
    outputs: (Outputs, Outputs),
}

impl Job {
    /// Of a model as it is, or run from the last step to the first.
    fn new(model: &Model, extents: &[(&str, usize)], kind: u64, back: bool) -> Job {
        let mut r = model.recurrence().unwrap();
        r.states.iter_mut().for_each(|s| s.reverse = back);
        let mut own = Model::extents(&r, model.small);
        for (axis, n) in r.axes.iter().zip(&mut own.0) {
            let given = extents.iter().find(|(name, _)| *name == axis.name);
            *n = given.map_or(*n, |&(_, n)| n);
        }
        let (primal, inputs) = given(&r, &options::inputs(model, &r, &own, kind));
        let mut scans = prepare(&primal, &|_| true, false);
        let mut options = Options {
            compute: Ty::F64,
            ..Options::default()
        };
        let all = inputs
            .tensors
            .keys()
            .chain(primal.outputs.iter().map(|o| &o.name));
        let all = all.chain(primal.states.iter().map(|s| &s.name)).cloned();
        options.storage.extend(all.map(|name| (name, Dtype::F64)));
        options.initial.extend(inputs.initial.keys().cloned());
        Job {
            before: eval_with_bound(&before(&primal), &inputs).unwrap(),
            outputs: eval_with_bound(&primal, &inputs).unwrap(),
            scan: scans.remove(0),
            extents: own,
            inputs,
            options,
        }
    }

    fn plan(&self, schedule: &Schedule) -> Result<Plan, Refusal> {
        Plan::new(
            &self.scan,
            &self.extents,
            &self.options,
            &Target::h200(),
            schedule,
        )
    }

    /// Runs a plan into poisoned memory; what is saved and put out must be what it means.
    fn check(&self, plan: &Plan) -> Result<(), String> {
        let rec = &self.scan.recurrence;
        let mut memory = Memory::new();
        for (i, decl) in rec.inputs.iter().enumerate() {
            let x = &self.inputs.tensors[&decl.name].data;
            memory.set(Role::Input(InputId(i as u32)), Dtype::F64, x);
        }
        for (s, decl) in rec.states.iter().enumerate() {
            if let Some(x) = self.inputs.initial.get(&decl.name) {
                memory.set(Role::Initial(StateId(s as u32)), Dtype::F64, &x.data);
            }
        }
        let steps = plan.schedule.save;
        let outputs = |of: &Outputs| {
            let each = rec.outputs.iter().map(|o| of.tensors[&o.name].data.clone());
            each.collect::<Vec<_>>()
        };
        let wanted = [outputs(&self.outputs.0), saved(rec, &self.before.0, steps)].concat();
        let bounds = [outputs(&self.outputs.1), saved(rec, &self.before.1, steps)].concat();
        for (k, wanted) in wanted.iter().enumerate() {
            let poison = vec![f64::NAN; wanted.len()];
            memory.set(Role::Output(k as u32), Dtype::F64, &poison);
        }
        let ix: Vec<i64> = self.extents.0.iter().map(|&n| n as i64).collect();
        interp(&lower(plan), &mut memory, &ix).map_err(|e| e.to_string())?;
        for (k, (wanted, bounds)) in wanted.iter().zip(&bounds).enumerate() {
            let found = memory.get(Role::Output(k as u32), Dtype::F64);
            for (i, &x) in found.ok_or("no memory")?.iter().enumerate() {
                let (wanted, m) = (wanted[i], bounds[i]);
                let right = (x - wanted).abs() <= 32.0 * f64::EPSILON * m;
                if !right {
                    return Err(format!("result {k}[{i}] is {x}, not {wanted} (m = {m})"));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn states_are_saved_on_the_way() {
    let mut runs = [0; ORDERS.len()];
    let mut turn = 0;
    for name in [
        "selective_scan_bdl",
        "selective_scan",
        "selective_scan_complex",
        "s4d_zoh",
    ] {
        let model = model(name).unwrap();
        for save in [1, 2, 3, 8, 16] {
            let mut lengths = vec![0, 1, save - 1, save, save + 1, 32, 37];
            lengths.sort_unstable();
            lengths.dedup();
            for length in lengths {
                turn += 1;
                let kind = 1 + turn % 3;
                let extents = [("L", length), ("D", 16), ("N", 4), ("G", 1)];
                let back = turn % 4 < 2;
                let job = Job::new(model, &extents, kind, back);
                for (tile, unroll, warp, share) in [
                    (4, 4, 2, 2),
                    (8, 4, 4, 0),
                    (2, 1, 2, 0),
                    (3, 2, 4, 1),
                    (4, 1, 1, 0),
                ] {
                    for (order, runs) in ORDERS.into_iter().zip(&mut runs) {
                        let schedule = Schedule {
                            tile,
                            unroll,
                            warp,
                            share,
                            threads: 32,
                            ahead: 1,
                            save: save as u32,
                            ..Schedule::plain(order)
                        };
                        let Ok(plan) = job.plan(&schedule) else {
                            continue;
                        };
                        *runs += 1;
                        job.check(&plan).unwrap_or_else(|why| {
                            panic!("{name} kind {kind}, {length} steps, back {back}, '{schedule}': {why}")
                        });
                    }
                }
            }
        }
    }
    println!("saves: {runs:?} plans interpreted, by order");
    assert!(runs.iter().all(|&n| n > 100), "{runs:?}");
}

/// A forward run for a gradient has the order of a plain launch where channels are many; where they are few, time in chunks.
#[test]
fn saving_keeps_the_order() {
    let model = model("selective_scan_bdl").unwrap();
    let r = model.recurrence().unwrap();
    let scan = &prepare(&r, &|name| !name.ends_with("const"), false)[0];
    for (channels, orders) in [
        (2048, [Order::Staged, Order::Staged]),
        (64, [Order::Scanned, Order::Staged]),
    ] {
        let extents = [("B", 8), ("L", 2048), ("D", channels), ("N", 16), ("G", 1)];
        let extents = Model::extents(&scan.recurrence, &extents);
        for (save, order) in [0, 16].into_iter().zip(orders) {
            let options = Options {
                save,
                ..Options::default()
            };
            let plan = default_plan(scan, &extents, &options, &Target::h200()).unwrap();
            assert_eq!(
                plan.schedule.order, order,
                "save={save}: '{}'",
                plan.schedule
            );
            assert_eq!(plan.schedule.save, save);
            let cut = plan.schedule.algorithm != Algorithm::Sequential;
            assert_eq!(cut, save > 0 && channels == 64, "'{}'", plan.schedule);
        }
    }
}
