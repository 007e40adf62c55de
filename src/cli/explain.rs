//! `selscan explain`: what a kernel becomes. In: a kernel and a shape. Out: its story on one page, or one stage of the
//! compiler whole.

use selscan_codegen::{Plan, Schedule, Target, default_plan, lower};
use selscan_dsl::scan::Scan;
use selscan_dsl::syntax::{Expr, ExprKind, Stmt};
use selscan_dsl::{NodeId, Op, OutputDecl, Recurrence};
use selscan_runtime::{Cuda, Device};
use serde_json::{Value, json};

use super::adjoint;
use super::args::{ExplainArgs, Stage};
use super::failure::Failure;
use super::job::{self, Job};
use super::report::{Report, bytes, digits, indent, table};
use super::stages::{as_written, fused};

/// Explains a kernel.
pub fn explain(args: &ExplainArgs) -> Result<Report, Failure> {
    if let Some(by) = &args.grad {
        return adjoint::explain(args, by);
    }
    let asked = args.kernel.device;
    let device = match args.stage {
        // These are the CPU's, also where there is a GPU.
        Some(Stage::Clif | Stage::Asm) if asked.device.is_none() => {
            Device::Cpu(job::cpu(asked.threads)?)
        }
        _ => job::device(asked)?,
    };
    let job = Job::described(&args.kernel, args.schedule.schedule, &device)?;
    let scans = job.kernel.scans(&job.spec)?;
    let plans = match args.stage {
        Some(Stage::Cuda) if device.cuda().is_none() => {
            for_h200(&job, &scans, args.schedule.schedule)?
        }
        _ => job.kernel.plan(&job.spec, &job.extents)?,
    };
    match args.stage {
        None => page(&job, &scans, &plans),
        Some(stage) => {
            let text = whole(&job, &scans, &plans, stage)?;
            let name = format!("{stage:?}").to_lowercase();
            let json = json!({ "command": "explain", "kernel": job.source.recurrence.name, "stage": name, "text": text });
            Ok(Report::new(text, json))
        }
    }
}

/// The plans for a GPU that is not at hand.
fn for_h200(job: &Job, scans: &[Scan], schedule: Option<Schedule>) -> Result<Vec<Plan>, Failure> {
    let (options, target) = (job.spec.options(&job.source.recurrence), Target::h200());
    let plan = |scan: &Scan| match &schedule {
        Some(schedule) => Plan::new(scan, &job.extents, &options, &target, schedule),
        None => default_plan(scan, &job.extents, &options, &target),
    };
    let plans = scans.iter().map(plan).collect::<Result<_, _>>();
    Ok(plans.map_err(selscan_runtime::Error::from)?)
}

/// One stage whole.
fn whole(job: &Job, scans: &[Scan], plans: &[Plan], stage: Stage) -> Result<String, Failure> {
    let programs = || plans.iter().map(lower);
    let join = |texts: Result<Vec<String>, Failure>| Ok(texts?.join("\n"));
    let cpu = || {
        job.kernel.device().cpu().ok_or_else(|| {
            Failure::Usage(
                "clif and asm are the CPU's: say --device cpu, or --stage cuda for the GPU's code"
                    .into(),
            )
        })
    };
    match stage {
        Stage::Recurrence => Ok(job.source.recurrence.to_string()),
        Stage::Scan => {
            let each = scans
                .iter()
                .map(|s| format!("{}\n{}", classes(s), s.recurrence));
            Ok(each.collect::<Vec<_>>().join("\n"))
        }
        Stage::Plan => Ok(plans
            .iter()
            .map(Plan::to_string)
            .collect::<Vec<_>>()
            .join("\n")),
        Stage::Loops => Ok(programs()
            .map(|p| p.to_string())
            .collect::<Vec<_>>()
            .join("\n")),
        Stage::Clif => join(programs().map(|p| Ok(cpu()?.clif(&p)?)).collect()),
        Stage::Asm => join(programs().map(|p| Ok(cpu()?.asm(&p)?)).collect()),
        Stage::Cuda => join(programs().map(|p| Ok(Cuda::source(&p)?.text)).collect()),
    }
}

/// The story on one page.
fn page(job: &Job, scans: &[Scan], plans: &[Plan]) -> Result<Report, Failure> {
    let r = &job.source.recurrence;
    let options = job.spec.options(r);
    let mut text = indent(&job.source.text, 0);
    let mut stages_json: Vec<Value> = Vec::new();
    text.push_str(&format!("\nat {}, {}\n", job.shape_text(), job.dtype()));
    let (mut before, mut after) = (0.0, 0.0);
    for (i, (scan, plan)) in scans.iter().zip(plans).enumerate() {
        if scans.len() > 1 {
            text.push_str(&format!("\ndirection {} of {}\n", i + 1, scans.len()));
        }
        text.push_str(&format!(
            "\n{}\ncomputed:\n{}",
            classes(scan),
            body(&scan.recurrence)
        ));
        let mut rows = Vec::new();
        let row = |what: &str, name: &str, reads: f64, writes: f64| {
            vec![
                what.to_owned(),
                name.to_owned(),
                bytes(reads),
                bytes(writes),
            ]
        };
        for (k, s) in as_written(scan, &job.extents, &options).iter().enumerate() {
            before += s.reads + s.writes;
            rows.push(row(
                if k == 0 { "as written" } else { "" },
                s.name,
                s.reads,
                s.writes,
            ));
            stages_json.push(json!({ "form": "as written", "name": s.name, "reads": s.reads, "writes": s.writes }));
        }
        for (k, (name, reads, writes)) in fused(plan, &job.extents).iter().enumerate() {
            after += reads + writes;
            rows.push(row(
                if k == 0 { "fused" } else { "" },
                name,
                *reads,
                *writes,
            ));
            stages_json
                .push(json!({ "form": "fused", "name": name, "reads": reads, "writes": writes }));
        }
        let header = ["", "stage", "reads", "writes"];
        text.push_str(&format!(
            "\n{}",
            table(&header, &rows, &[false, false, true, true])
        ));
        text.push_str(&format!("\nschedule: {}\n", plan.schedule));
    }
    text.push_str(&format!(
        "\nfusion moves {} in place of {}: {}× less\n",
        bytes(after),
        bytes(before),
        digits(before / after.max(1.0))
    ));
    let json = json!({
        "command": "explain",
        "kernel": r.name,
        "shape": job.shape().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "dtype": job.dtype().name(),
        "text": job.source.text,
        "classes": scans.iter().map(|s| s.class.to_string()).collect::<Vec<_>>(),
        "states": scans.iter().flat_map(states_json).collect::<Vec<_>>(),
        "stages": stages_json,
        "bytes_as_written": before,
        "bytes_fused": after,
        "schedules": plans.iter().map(|p| p.schedule.to_string()).collect::<Vec<_>>(),
    });
    Ok(Report::new(text, json))
}

pub(super) fn states_json(scan: &Scan) -> Vec<Value> {
    let each = scan.source.state_ids().zip(&scan.states);
    each.map(|(id, state)| {
        let name = &scan.source.state(id).name;
        match &state.affine {
            Ok(pair) => {
                let (lets, a, b) = pair_exprs(&scan.source, pair.a, pair.b);
                json!({
                    "state": name, "class": state.class.to_string(),
                    "lets": lets, "a": a.to_string(), "b": b.to_string(),
                })
            }
            Err(why) => {
                json!({ "state": name, "class": state.class.to_string(), "not_affine": why.reason })
            }
        }
    })
    .collect()
}

/// The class of every state, and h' = a h + b or why there is no such form.
pub(super) fn classes(scan: &Scan) -> String {
    let mut out = format!("class: {}\n", scan.class);
    let several = scan.states.len() > 1;
    for (id, state) in scan.source.state_ids().zip(&scan.states) {
        let name = &scan.source.state(id).name;
        if several {
            out.push_str(&format!("  {name}: {}\n", state.class));
        }
        match &state.affine {
            Ok(pair) => {
                let (lets, a, b) = pair_exprs(&scan.source, pair.a, pair.b);
                let next = match a.kind {
                    ExprKind::Number(0.0) => b,
                    ExprKind::Number(1.0) => binary(Op::Add, Expr::name(name), b),
                    _ => binary(Op::Add, binary(Op::Mul, a, Expr::name(name)), b),
                };
                for line in lets {
                    out.push_str(&format!("    {line}\n"));
                }
                out.push_str(&format!("    {name}' = {next}\n"));
            }
            Err(why) => out.push_str(&format!("    {why}\n")),
        }
    }
    out
}

fn binary(op: Op, x: Expr, y: Expr) -> Expr {
    Expr::made(ExprKind::Binary(op, Box::new(x), Box::new(y)))
}

/// Two values of a recurrence as expressions, after the `let`s that they need.
fn pair_exprs(r: &Recurrence, a: NodeId, b: NodeId) -> (Vec<String>, Expr, Expr) {
    let mut values = r.clone();
    let zero = values.graph.constant(0.0);
    for state in &mut values.states {
        (state.update, state.update_im) = (zero, None);
    }
    let output = |name: &str, value| OutputDecl {
        name: name.to_owned(),
        axes: r.graph.axes(value).iter().collect(),
        complex: false,
        value,
        value_im: None,
    };
    // The names that a text gives: others would be `let`s.
    values.outputs = vec![output("out0", a), output("out1", b)];
    let kernel = values.to_kernel();
    let lets = kernel.body.iter().filter(|s| matches!(s, Stmt::Let { .. }));
    let lets = lets.map(ToString::to_string).collect();
    let mut pair = match kernel.tail.kind {
        ExprKind::Tuple(pair) => pair,
        _ => vec![kernel.tail],
    };
    let b = pair.pop().unwrap_or_else(|| Expr::made(ExprKind::Error));
    let a = pair.pop().unwrap_or_else(|| Expr::made(ExprKind::Error));
    (lets, a, b)
}

/// The statements of the simplified recurrence: what a step computes.
pub(super) fn body(r: &Recurrence) -> String {
    let kernel = r.to_kernel();
    let lines = kernel.body.iter().map(|s| format!("    {s}\n"));
    lines.chain([format!("    {}\n", kernel.tail)]).collect()
}
