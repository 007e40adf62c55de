//! What a plan takes of a GPU at least: the schedules that cannot be faster than one already timed need not be timed.
//!
//! In: a [`Plan`], a [`Target`]. Out: seconds, of each pass the most of
//!
//! ```text
//! bytes of its tensors / bandwidth
//! results of the special unit · f / (16 a clock and multiprocessor)
//! operations · f / (128 a clock and multiprocessor; a product and a sum may be one)
//! ```
//! where f is what the fullest multiprocessor has to do by itself (blocks are not divided), and more where it holds fewer
//! warps at once than it has schedulers. What threads do twice, shared memory and waiting are left out: a bound, no guess.

use selscan_dsl::{AxisId, Node, NodeId, Op};

use crate::dtype::{Dtype, Ty};
use crate::lower::shared_bytes;
use crate::plan::{Pass, Plan};
use crate::target::{Gpu, Target};

/// Results a clock of a multiprocessor's unit for exponentials, logarithms and roots, in f32.
pub const SPECIALS: f64 = 16.0;

/// Operations a clock of a multiprocessor: those of four warps.
const OPERATIONS: f64 = 128.0;
const SCHEDULERS: u64 = 4;

/// Results of the special unit in one operation.
#[must_use]
pub fn specials(op: Op) -> f64 {
    match op {
        Op::Exp
        | Op::Exp2
        | Op::Expm1
        | Op::Log
        | Op::Log2
        | Op::Sqrt
        | Op::Rsqrt
        | Op::Sin
        | Op::Cos
        | Op::Div => 1.0,
        // An exponential, and a reciprocal or a logarithm.
        Op::Phi1 | Op::Tanh | Op::Sigmoid | Op::Softplus | Op::Erf => 2.0,
        Op::Neg
        | Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Min
        | Op::Max
        | Op::Abs
        | Op::Floor
        | Op::Lt
        | Op::Le
        | Op::Gt
        | Op::Ge
        | Op::Eq
        | Op::Ne
        | Op::Select
        | Op::Re
        | Op::Im
        | Op::Conj
        | Op::Complex => 0.0,
    }
}

/// Instructions of an operation, at least.
fn instructions(op: Op) -> f64 {
    match op {
        // Of a product and a sum.
        Op::Add | Op::Sub | Op::Mul => 0.5,
        // Modifiers of other instructions, or names.
        Op::Neg | Op::Abs | Op::Re | Op::Im | Op::Conj | Op::Complex => 0.0,
        _ => specials(op).max(1.0),
    }
}

/// The least seconds of a launch on a GPU; 0 on a CPU, and on a GPU that does not tell its clock.
#[must_use]
pub fn least_seconds(plan: &Plan, target: &Target) -> f64 {
    let Some(gpu) = target.gpu.as_ref().filter(|g| g.clock_khz > 0) else {
        return 0.0;
    };
    let passes = plan.passes.iter().map(|pass| Work::of(plan, pass, gpu));
    let passes: Vec<Work> = passes.collect();
    let all: f64 = passes.iter().map(|w| w.bytes).sum();
    passes
        .iter()
        .map(|w| {
            // What fits into the cache may be there already.
            let memory = match all > 2.0 * target.l2 as f64 && gpu.bandwidth > 0 {
                true => w.bytes / gpu.bandwidth as f64,
                false => 0.0,
            };
            w.busy.max(memory)
        })
        .sum()
}

/// What a pass takes.
struct Work {
    bytes: f64,
    /// Seconds of the fullest multiprocessor.
    busy: f64,
}

impl Work {
    fn of(plan: &Plan, pass: &Pass, gpu: &Gpu) -> Work {
        let (rec, s) = (&pass.recurrence, &pass.schedule);
        let extent = |axis: AxisId| {
            let at = |a| plan.extents.get(a) as i64;
            let ix = pass.extents[axis.0 as usize].eval(&|_| 0, &at);
            ix.unwrap_or(1).max(0) as f64
        };
        let points = |id: NodeId| -> f64 { rec.graph.axes(id).iter().map(extent).product() };
        let (mut special, mut operations) = (0.0, 0.0);
        for id in rec.graph.reachable(&rec.roots()) {
            match rec.graph.node(id) {
                Node::Op(op, _) => {
                    special += specials(*op) * points(id);
                    operations += instructions(*op) * points(id);
                }
                // A sum over n points is n sums.
                Node::Reduce { x, .. } => operations += 0.5 * points(*x),
                _ => {}
            }
        }
        if plan.compute == Ty::F64 {
            // Its unit has none.
            special = 0.0;
        }
        // exp2=K: so many of eight are computed by products and sums.
        special *= f64::from(8 - s.exp2.min(8)) / 8.0;
        let clock = f64::from(gpu.clock_khz) * 1e3;
        let unit = (special / SPECIALS).max(operations / OPERATIONS) / clock;
        Work {
            bytes: bytes(pass, &extent),
            busy: unit * fullest(plan, pass, gpu, &extent),
        }
    }
}

/// The bytes of a pass's tensors, each once.
fn bytes(pass: &Pass, extent: &dyn Fn(AxisId) -> f64) -> f64 {
    let rec = &pass.recurrence;
    let of = |axes: &[AxisId], complex: bool, dtype: Dtype| {
        let points: f64 = axes.iter().map(|&a| extent(a)).product();
        points * dtype.bytes() as f64 * if complex { 2.0 } else { 1.0 }
    };
    let inputs = rec.inputs.iter().zip(&pass.inputs);
    let inputs = inputs.map(|(decl, (_, dtype))| of(&decl.axes, decl.complex, *dtype));
    // Of outputs that are sums over channels only parts are written.
    let outputs = rec.outputs.iter().zip(&pass.outputs);
    let outputs = outputs.map(|(decl, (_, dtype))| of(&decl.axes, decl.complex, *dtype));
    let outputs: f64 = match pass.sums {
        Some(_) => 0.0,
        None => outputs.sum(),
    };
    inputs.sum::<f64>() + outputs
}

/// The work of the multiprocessor that has the most, as a part of all; twice that if only half of its schedulers have a warp.
fn fullest(plan: &Plan, pass: &Pass, gpu: &Gpu, extent: &dyn Fn(AxisId) -> f64) -> f64 {
    let s = &pass.schedule;
    let mut points: f64 = pass.structure.parallel.iter().map(|&a| extent(a)).product();
    if let Some(chunk) = pass.chunk {
        points *= (extent(pass.recurrence.time) / f64::from(chunk)).ceil();
    }
    let items = (points / f64::from(s.block.max(1))).ceil();
    let blocks = (items * f64::from(s.warp) / f64::from(s.threads.max(1)))
        .ceil()
        .max(1.0);
    let own = (blocks / f64::from(gpu.multiprocessors.max(1))).ceil();
    let shared = shared_bytes(pass, plan.compute.storage());
    let room = u64::from(gpu.threads / s.threads.max(1)).max(1);
    let room = match u64::from(gpu.shared_per_block).checked_div(shared) {
        Some(blocks) => room.min(blocks.max(1)),
        None => room,
    };
    let warps = room.min(own as u64).max(1) * u64::from(s.threads.div_ceil(32));
    let idle = SCHEDULERS as f64 / warps.min(SCHEDULERS) as f64;
    own / blocks * idle
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use selscan_dsl::scan::prepare;
    use selscan_dsl::{Extents, Recurrence};

    use super::*;
    use crate::Options;

    const SCAN: &str = "#[ssm_kernel]
        fn scan(u: Tensor<B, D, L>, delta: Tensor<B, D, L>, a: Tensor<D, N>, b: Tensor<B, N, L>, c: Tensor<B, N, L>, h: State<B, D, N>)
            -> Tensor<B, D, L> { h = exp(delta * a) * h + delta * b * u; sum::<N>(c * h) }";

    fn least(shape: [usize; 4], schedule: &str) -> f64 {
        let r = Recurrence::parse(SCAN).unwrap();
        let [batch, channels, steps, states] = shape;
        let extent = |name: &str| match name {
            "B" => batch,
            "D" => channels,
            "L" => steps,
            _ => states,
        };
        let extents = Extents(r.axes.iter().map(|a| extent(&a.name)).collect());
        let scans = prepare(&r, &|_| true, false);
        let target = Target::h200();
        let schedule = schedule.parse().unwrap();
        let plan = Plan::new(&scans[0], &extents, &Options::default(), &target, &schedule).unwrap();
        least_seconds(&plan, &target)
    }

    const ONE: &str = "sequential order=registers lanes=1 block=1 tile=32 unroll=4 threads=128";

    #[test]
    fn exponentials_are_what_binds() {
        // 8 · 2048 · 2048 · 16 of them, by 132 multiprocessors, 16 a clock of 1.98 GHz; 128 blocks leave four without.
        let all = 8.0 * 2048.0 * 2048.0 * 16.0 / (16.0 * 1.98e9);
        let found = least([8, 2048, 2048, 16], ONE);
        assert!((found / (all / 128.0) - 1.0).abs() < 1e-9, "{found}");
        let spared = least([8, 2048, 2048, 16], &format!("{ONE} exp2=2"));
        assert!((spared / found - 0.75).abs() < 1e-9, "{spared}");
    }

    #[test]
    fn what_leaves_multiprocessors_idle_takes_longer() {
        let few = [1, 256, 4096, 16];
        let scanned =
            "sequential order=scanned lanes=1 block=1 tile=16 unroll=1 warp=32 threads=128";
        // Two blocks, and 64.
        assert!((least(few, ONE) / least(few, scanned) - 32.0).abs() < 2.1);
        // One warp a multiprocessor has one of its schedulers.
        let narrow = "sequential order=registers lanes=1 block=1 tile=32 unroll=4 threads=32";
        assert!((least(few, narrow) / least(few, ONE) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn memory_binds_where_the_cache_does_not_hold_it() {
        let little = |n| least([8, 2048, n, 1], ONE);
        let bytes = 3.0 * 8.0 * 2048.0 * 2048.0 * 4.0;
        assert!(little(2048) > bytes / 4.8e12, "{}", little(2048));
        assert!(little(64) < little(2048) / 30.0);
    }
}
