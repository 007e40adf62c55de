//! What is compiled: models as they are launched, as CUDA C; and what NVRTC makes of it.

use selscan_codegen::backend::cuda::{Source, emit};
use selscan_codegen::{
    Backward, Dtype, Options, Plan, Refusal, Schedule, Target, default_plan, lower,
};
use selscan_dsl::scan::{Scan, prepare};
use selscan_dsl::{Extents, Recurrence};
use selscan_models::Model;
use selscan_runtime::nvrtc::{self, Resources};
use selscan_runtime::{Error, Spec};

/// A model simplified, with all of its optional inputs, in one type, at the extents of a call in practice: every state
/// starts from an initial one, and its last one is wanted.
pub struct Case {
    pub model: &'static Model,
    pub dtype: Dtype,
    pub packed: bool,
    pub extents: Extents,
    pub options: Options,
    /// One per direction of time.
    pub scans: Vec<Scan>,
}

/// Steps between states that are saved for a gradient.
const SAVE: u32 = 16;

/// The machine code of one plan.
pub struct Built {
    pub schedule: Schedule,
    pub kernels: Vec<BuiltKernel>,
}

/// One kernel of it.
pub struct BuiltKernel {
    pub resources: Resources,
    /// Shared memory of a block, bytes.
    pub shared: u32,
    /// Instructions in its text, if they can be counted.
    pub instructions: Option<usize>,
}

impl Case {
    pub fn new(model: &'static Model, dtype: Dtype, packed: bool) -> Case {
        let r = model.recurrence().unwrap();
        Case {
            model,
            dtype,
            packed,
            extents: Model::extents(&r, model.typical),
            options: spec(&r, dtype).options(&r),
            scans: prepare(&r, &|_| true, packed),
        }
    }

    /// The same with another extent of an axis.
    pub fn with_extent(mut self, axis: &str, extent: usize) -> Case {
        let r = self.model.recurrence().unwrap();
        let other =
            |&(name, n): &(&'static str, usize)| (name, if name == axis { extent } else { n });
        let extents: Vec<_> = self.model.typical.iter().map(other).collect();
        self.extents = Model::extents(&r, &extents);
        self
    }

    /// The same, of which states are saved for a gradient.
    pub fn that_saves(mut self) -> Case {
        self.options.save = SAVE;
        self
    }

    /// Model and what it is compiled with.
    pub fn name(&self) -> String {
        let packed = if self.packed { ", packed" } else { "" };
        format!("{} in {}{packed}", self.model.name, self.dtype)
    }

    /// The plan of a schedule, if it fits.
    pub fn plan(&self, scan: &Scan, schedule: &Schedule, target: &Target) -> Result<Plan, Refusal> {
        Plan::new(scan, &self.extents, &self.options, target, schedule)
    }

    /// The default plan of the gradients by all inputs and initial states, from cotangents of all outputs and last states.
    pub fn gradient_plan(&self, target: &Target) -> Plan {
        let r = self.model.recurrence().unwrap();
        let primal = r.specialize(&|_| true);
        let primal = if self.packed {
            primal.with_boundaries()
        } else {
            primal
        };
        let tensors = primal
            .inputs
            .iter()
            .map(|i| &i.name)
            .filter(|name| r.input_named(name).is_some());
        let by: Vec<&str> = tensors
            .chain(primal.states.iter().map(|s| &s.name))
            .map(String::as_str)
            .collect();
        let backward = Backward::new(&primal, &by).unwrap();
        let adjoint = &backward.adjoint.recurrence;
        let mut options = Options {
            save: SAVE,
            ..self.options.clone()
        };
        let outputs = adjoint.outputs.iter().map(|o| &o.name);
        let cotangents = backward.adjoint.cotangents.iter().map(|(_, d)| d);
        let names = outputs.chain(cotangents).cloned();
        options.storage.extend(names.map(|name| (name, self.dtype)));
        options.initial = backward
            .adjoint
            .states
            .iter()
            .map(|(_, d)| d.clone())
            .collect();
        options.last = adjoint.states.iter().map(|s| s.name.clone()).collect();
        let extents = backward.extents(&self.extents);
        match backward.default_plan(&extents, &options, target) {
            Ok(plan) => plan,
            Err(why) => panic!(
                "{}: no plan of gradients for {}: {why}",
                self.name(),
                target.name
            ),
        }
    }

    /// The plans of its default schedules.
    pub fn default_plans(&self, target: &Target) -> Vec<Plan> {
        let plan = |scan| match default_plan(scan, &self.extents, &self.options, target) {
            Ok(plan) => plan,
            Err(why) => panic!("{}: no plan for {}: {why}", self.name(), target.name),
        };
        self.scans.iter().map(plan).collect()
    }
}

fn spec(r: &Recurrence, dtype: Dtype) -> Spec {
    let mut spec = Spec::new(r, dtype);
    for input in &r.inputs {
        spec = spec.with_input(r, &input.name, dtype).unwrap();
    }
    for state in &r.states {
        spec = spec.with_state(r, &state.name, dtype, true, true).unwrap();
    }
    spec
}

/// Compiles a plan for a target; an error is a sentence that names the schedule.
pub fn build(plan: &Plan, target: &Target) -> Result<Built, String> {
    let fail = |why: String| format!("'{}': {why}", plan.schedule);
    let gpu = target.gpu.as_ref().unwrap();
    let source = emit(&lower(plan)).map_err(|why| fail(why.to_string()))?;
    let compiled = match nvrtc::compile(&source.text, gpu.capability) {
        Ok(compiled) => compiled,
        Err(Error::Nvrtc { why, log, .. }) => return Err(fail(format!("{why}\n{log}"))),
        Err(why) => return Err(fail(why.to_string())),
    };
    let kernel = |entry| built_kernel(&source, entry, &compiled);
    let kernels = (0..source.kernels.entries.len()).map(kernel);
    let kernels = kernels.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    if let Some(k) = kernels.iter().find(|k| k.shared > gpu.shared_per_block) {
        return Err(fail(format!(
            "{} bytes of shared memory a block, of at most {}",
            k.shared, gpu.shared_per_block
        )));
    }
    Ok(Built {
        schedule: plan.schedule,
        kernels,
    })
}

fn built_kernel(
    source: &Source,
    entry: usize,
    compiled: &nvrtc::Compiled,
) -> Result<BuiltKernel, String> {
    let entry = &source.kernels.entries[entry];
    let resources = compiled.functions.iter().find(|f| f.name == entry.name);
    let resources = resources
        .filter(|r| r.registers > 0)
        .ok_or_else(|| format!("no report of {} in the log\n{}", entry.name, compiled.log))?;
    Ok(BuiltKernel {
        resources: resources.clone(),
        shared: resources.shared + entry.shared,
        instructions: instructions(&compiled.cubin, &entry.name),
    })
}

/// The instructions of a kernel, from the size of its section in the CUBIN, a 64-bit ELF file: 16 bytes each, the padding
/// at the end included.
fn instructions(cubin: &[u8], kernel: &str) -> Option<usize> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let bytes = cubin.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))
    };
    let (table, each) = (number(40, 8)?, number(58, 2)?);
    let header = |i: usize| Some(table + each * i);
    let names = number(header(number(62, 2)?)? + 24, 8)?;
    let wanted = format!(".text.{kernel}\0");
    (0..number(60, 2)?).find_map(|i| {
        let at = header(i)?;
        let name = names + number(at, 4)?;
        let found = cubin.get(name..name + wanted.len())?;
        (found == wanted.as_bytes()).then(|| number(at + 32, 8).map(|n| n / 16))?
    })
}
