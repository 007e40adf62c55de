//! `selscan explain --grad`: the adjoint of a kernel as math. In: a kernel, what of it is given, and the names to
//! differentiate by. Out: what goes in and comes out, the adjoint as a kernel, and each direction as a scan; or one stage of
//! the compiler whole.

use selscan_codegen::{Target, lower};
use selscan_dsl::{Adjoint, Recurrence, Scan, When};
use selscan_runtime::Cuda;
use serde_json::{Value, json};

use super::args::{ExplainArgs, Stage};
use super::data;
use super::explain::{body, classes, states_json};
use super::failure::Failure;
use super::job::{self, Job};
use super::report::{Report, table};
use super::source::Source;

/// Explains the gradients by the inputs and states that `by` names; by all of them if it names none.
pub fn explain(args: &ExplainArgs, by: &[String]) -> Result<Report, Failure> {
    let source = Source::load(&args.kernel.source, args.kernel.kernel.as_deref())?;
    let given = data::given(&source.recurrence, &args.kernel.without)?;
    let primal = source
        .recurrence
        .specialize(&|name| given.iter().any(|n| n == name));
    let inputs = primal.inputs.iter().map(|i| i.name.as_str());
    let all = inputs.chain(primal.states.iter().map(|s| s.name.as_str()));
    let names: Vec<&str> = match by {
        [] => all.collect(),
        some => some.iter().map(String::as_str).collect(),
    };
    let adjoint = primal
        .vjp(&names)
        .map_err(|e| Failure::Usage(e.to_string()))?;
    let directions = adjoint.recurrence.split_directions();
    let scans: Vec<Scan> = directions.iter().map(Scan::derive).collect();
    if let Some(stage) = args.stage {
        let text = match stage {
            Stage::Recurrence => adjoint.recurrence.to_string(),
            Stage::Scan => {
                let each = scans
                    .iter()
                    .map(|s| format!("{}\n{}", classes(s), s.recurrence));
                each.collect::<Vec<_>>().join("\n")
            }
            Stage::Plan | Stage::Loops | Stage::Cuda => planned(args, stage, &names)?,
            Stage::Clif | Stage::Asm => {
                return Err(Failure::Usage(
                    "gradients have the stages recurrence, scan, plan, loops and cuda: say one of these, or leave --stage out".into(),
                ));
            }
        };
        let name = format!("{stage:?}").to_lowercase();
        let json = json!({ "command": "explain", "kernel": adjoint.recurrence.name, "stage": name, "text": text });
        return Ok(Report::new(text, json));
    }
    let rows = roles(&primal, &adjoint, &names);
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.to_vec()).collect();
    let header = ["", "name", "is"];
    let mut text = format!(
        "{}\n{}",
        adjoint.recurrence,
        table(&header, &cells, &[false; 3])
    );
    for (i, scan) in scans.iter().enumerate() {
        if scans.len() > 1 {
            text.push_str(&format!("\ndirection {} of {}\n", i + 1, scans.len()));
        }
        text.push_str(&format!(
            "\n{}\ncomputed:\n{}",
            classes(scan),
            body(&scan.recurrence)
        ));
    }
    let roles: Vec<Value> = rows
        .iter()
        .map(|[role, name, is]| json!({ "role": role, "name": name, "is": is }))
        .collect();
    let json = json!({
        "command": "explain",
        "kernel": adjoint.recurrence.name,
        "text": adjoint.recurrence.to_string(),
        "roles": roles,
        "classes": scans.iter().map(|s| s.class.to_string()).collect::<Vec<_>>(),
        "states": scans.iter().flat_map(states_json).collect::<Vec<_>>(),
    });
    Ok(Report::new(text, json))
}

/// The plan of the gradients for made-up data, or what becomes of it.
fn planned(args: &ExplainArgs, stage: Stage, by: &[&str]) -> Result<String, Failure> {
    let device = job::device(args.kernel.device)?;
    let job = Job::described(&args.kernel, None, &device)?;
    let kernel = match args.schedule.schedule {
        Some(schedule) => job.kernel.with_backward_schedule(schedule),
        None => job.kernel.clone(),
    };
    let h200 = Target::h200();
    let target = match stage {
        Stage::Cuda if device.cuda().is_none() => &h200,
        _ => device.target(),
    };
    let plan = kernel.plan_backward_for(target, &job.spec, &job.extents, by)?;
    Ok(match stage {
        Stage::Plan => plan.to_string(),
        Stage::Loops => lower(&plan).to_string(),
        _ => Cuda::source(&lower(&plan))?.text,
    })
}

/// What the names that the primal does not have stand for: role, name, meaning.
fn roles(primal: &Recurrence, adjoint: &Adjoint, by: &[&str]) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    let mut row = |role: &str, name: &str, is: String| {
        rows.push([role.to_owned(), name.to_owned(), is]);
    };
    for saved in &adjoint.saved {
        let step = match saved.when {
            When::Prev => "before each step",
            When::Next => "after each step",
        };
        let state = &primal.state(saved.state).name;
        row(
            "input",
            &saved.name,
            format!("{state} {step} of the forward run"),
        );
    }
    for (output, d) in &adjoint.cotangents {
        row("input", d, format!("the gradient by {output}"));
    }
    for (state, d) in &adjoint.states {
        row("initial", d, format!("the gradient by the last {state}"));
        if by.contains(&state.as_str()) {
            row("last", d, format!("the gradient by the initial {state}"));
        }
    }
    for (input, d) in &adjoint.gradients {
        let is_output = adjoint.recurrence.outputs.iter().any(|o| o.name == *d);
        let role = if is_output { "output" } else { "last" };
        row(role, d, format!("the gradient by {input}"));
    }
    rows
}
