//! Gradients of a kernel: a forward run that saves states, and a backward run from them.
//!
//! ```text
//! let saved = kernel.forward_for_grad(args)?;                             y, and h before each chunk of time
//! kernel.backward(args, &saved, Gradients::new()
//!     .cotangent("out", &dy).last_cotangent("h", &dh)                     ∂L/∂y, ∂L/∂h after the last step; 0 if left out
//!     .gradient("u", &mut du).initial_gradient("h", &mut dh0))?;          ∂L/∂u, ∂L/∂h before the first; only these are computed
//! ```
//! In: the arguments of a launch; cotangents, which have the shapes of what they belong to. Out: gradients, which have the
//! shapes of theirs; complex ones are (∂L/∂Re, ∂L/∂Im). States of the steps are never stored for all of time: the backward
//! run makes those of a chunk again from what was saved before it (Mamba, Gu & Dao 2023, section 3.3.2). Sums over the batch,
//! over channels and time are done in a fixed order: two runs give the same bits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use selscan_codegen::{Backward, Dtype, Plan, Schedule, Target, Ty};
use selscan_dsl::{Extents, InputId, Recurrence, StateId};

use crate::args::Args;
use crate::buffer::{Tensor, TensorMut, TensorRef};
use crate::cache::lock;
use crate::call::{Call, StateArgs};
use crate::checkpoints::{Checkpoints, Memory, Saved};
use crate::device::room::Temporary;
use crate::device::{Bindings, Code, Device, DeviceTensor};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::place::{self, Staging};
use crate::run::{no_steps, starts};
use crate::spec::Spec;
use crate::wanted::Wanted;

/// Steps of a chunk where the caller sets no bound: what a thread keeps of one then fits in the nearest memory.
const STEPS_ON_CPU: u32 = 64;
const STEPS_ON_GPU: u32 = 16;

/// What a backward run is given and asked for, by the names in the kernel's text.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    pub(crate) cotangents: Vec<(&'a str, TensorRef<'a>)>,
    pub(crate) last: Vec<(&'a str, TensorRef<'a>)>,
    pub(crate) gradients: Vec<(&'a str, TensorMut<'a>)>,
    pub(crate) initial: Vec<(&'a str, TensorMut<'a>)>,
}

impl<'a> Gradients<'a> {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Gradients::default()
    }
    /// The gradient of the loss by an output, of its shape. Outputs without one do not matter to the loss.
    #[must_use]
    pub fn cotangent(mut self, output: &'a str, tensor: impl Into<TensorRef<'a>>) -> Self {
        self.cotangents.push((output, tensor.into()));
        self
    }
    /// The gradient of the loss by a state after the last step, of its shape.
    #[must_use]
    pub fn last_cotangent(mut self, state: &'a str, tensor: impl Into<TensorRef<'a>>) -> Self {
        self.last.push((state, tensor.into()));
        self
    }
    /// Where the gradient by an input is to be written, of its shape.
    #[must_use]
    pub fn gradient(mut self, input: &'a str, tensor: impl Into<TensorMut<'a>>) -> Self {
        self.gradients.push((input, tensor.into()));
        self
    }
    /// Where the gradient by a state before the first step is to be written, of its shape.
    #[must_use]
    pub fn initial_gradient(mut self, state: &'a str, tensor: impl Into<TensorMut<'a>>) -> Self {
        self.initial.push((state, tensor.into()));
        self
    }
}

/// The caller's wishes for gradients of a kernel.
#[derive(Clone, Default)]
pub(crate) struct GradientOptions {
    steps: Option<u32>,
    limit: Option<usize>,
    schedule: Option<Schedule>,
}

/// What the code of a backward run depends on.
type Shape = (Wanted, Spec, Extents, Option<Schedule>);

/// Adjoints and their code.
#[derive(Default)]
pub(crate) struct GradientCode {
    adjoints: Mutex<HashMap<Wanted, Arc<Backward>>>,
    code: Mutex<HashMap<Shape, Arc<Code>>>,
}

/// The most shapes whose code is remembered at once.
const MOST_SHAPES: usize = 1024;

impl Kernel {
    /// The same kernel, whose gradients run chunks of this many steps again. More steps save less memory between the runs
    /// and need more within one.
    #[must_use]
    pub fn with_checkpoint_steps(&self, steps: u32) -> Kernel {
        let mut kernel = self.clone();
        kernel.gradient.steps = Some(steps.max(1));
        kernel
    }

    /// The same kernel, whose forward runs for a gradient save at most this many bytes of states (one state at least).
    #[must_use]
    pub fn with_checkpoint_limit(&self, bytes: usize) -> Kernel {
        let mut kernel = self.clone();
        kernel.gradient.limit = Some(bytes);
        kernel
    }

    /// The same kernel with a schedule for its backward runs; what it says of saved states is left to the forward run.
    #[must_use]
    pub fn with_backward_schedule(&self, schedule: Schedule) -> Kernel {
        let mut kernel = self.clone();
        kernel.gradient.schedule = Some(schedule);
        kernel
    }

    /// Runs the kernel as [`Kernel::launch`] does and saves what [`Kernel::backward`] needs.
    ///
    /// # Errors
    /// As [`Kernel::launch`]; where there is no memory for the saved states.
    pub fn forward_for_grad(&self, args: Args<'_>) -> Result<Checkpoints, Error> {
        let mut checkpoints = None;
        self.forward_for_grad_into(args, &mut checkpoints)?;
        Ok(checkpoints.unwrap_or_else(|| unreachable!("the run above made them")))
    }

    /// The same into the memory of an earlier run's, where that was of the same shape: a training loop then allocates
    /// once.
    ///
    /// # Errors
    /// As [`Kernel::forward_for_grad`].
    pub fn forward_for_grad_into(
        &self,
        args: Args<'_>,
        checkpoints: &mut Option<Checkpoints>,
    ) -> Result<(), Error> {
        let r = self.recurrence();
        let staging = place::check(&r.name, &args, self.device().name())?;
        let mut call = Call::resolve(r, args)?;
        let prepared = self.prepared(&call.spec)?;
        let extents = call.extents(r, &prepared.specialized)?;
        call.spec.save = self.steps(self.device().target(), &call.spec, &extents);
        let fits = |c: &Checkpoints| c.spec == call.spec && c.extents == extents;
        let mut made = match checkpoints.take() {
            Some(earlier) if fits(&earlier) => earlier,
            _ => self.checkpoints(call.spec.clone(), &extents)?,
        };
        self.run_call(staging, call, &prepared, &extents, &mut made.saved)?;
        *checkpoints = Some(made);
        Ok(())
    }

    /// The gradients that `gradients` asks for, of a loss whose gradients by the outputs it gives. `args` are those of the
    /// run that made `checkpoints`: inputs, flags, initial states, boundaries; places for results are not looked at.
    ///
    /// On a GPU, over tensors that are on it, it is queued on the stream of the kernel's [`crate::Cuda`], as a launch is.
    ///
    /// # Errors
    /// Whatever is wrong with the arguments, before anything is written; see [`Error`].
    pub fn backward(
        &self,
        args: Args<'_>,
        checkpoints: &Checkpoints,
        gradients: Gradients<'_>,
    ) -> Result<(), Error> {
        let r = self.recurrence();
        let wanted = self.wanted(&args, checkpoints, &gradients)?;
        let backward = self.adjoint(&wanted, &checkpoints.spec)?;
        let boundaries = args.boundaries.clone();
        let (adjoint, args) = call_of(&backward, args, gradients);
        let staging = place::check(&r.name, &args, self.device().name())?;
        let call = Call::resolve(&adjoint, args)?;
        let extents = backward.extents(&checkpoints.extents);
        if checkpoints.extents.get(r.time) == 0 {
            return no_steps(&adjoint, self.device(), call);
        }
        let code = self.backward_code(
            &wanted,
            &backward,
            &adjoint,
            (&call.spec, &extents),
            checkpoints,
        )?;
        let dtype = checkpoints.spec.compute().storage();
        let run = |call: Call<'_>| {
            let mut room = self.device().room();
            let prepared = self.prepared(&checkpoints.spec)?;
            let made = starts(boundaries.as_ref(), &prepared.specialized, &mut room, dtype)?;
            let bindings = bind(call, &backward, &adjoint, &made, checkpoints);
            room.launch(&code, bindings, &extents)
        };
        match (staging, self.device()) {
            (Staging::FromHost, Device::Cuda(cuda)) => cuda.staged(call, run),
            (Staging::InPlace | Staging::FromHost, _) => run(call),
        }
    }

    /// Steps of a chunk.
    fn steps(&self, target: &Target, spec: &Spec, extents: &Extents) -> u32 {
        let usual = match target.gpu {
            None => STEPS_ON_CPU,
            Some(_) => STEPS_ON_GPU,
        };
        let least = self.gradient.steps.unwrap_or(usual);
        let Some(limit) = self.gradient.limit else {
            return least;
        };
        let r = self.recurrence();
        let points = |s: &selscan_dsl::StateDecl| {
            let shape = extents.shape(&s.axes).into_iter();
            shape.fold(if s.complex { 2 } else { 1 }, usize::saturating_mul)
        };
        let numbers = r.states.iter().map(points).fold(0, usize::saturating_add);
        let bytes = numbers.saturating_mul(spec.compute().storage().bytes());
        let chunks = (limit / bytes.max(1)).max(1);
        let steps = extents.get(r.time).div_ceil(chunks);
        least.max(u32::try_from(steps).unwrap_or(u32::MAX))
    }

    fn checkpoints(&self, spec: Spec, extents: &Extents) -> Result<Checkpoints, Error> {
        let r = self.recurrence();
        let dtype = spec.compute().storage();
        let chunks = extents.get(r.time).div_ceil(spec.save.max(1) as usize);
        let mut saved = Vec::new();
        for state in &r.states {
            let mut shape = vec![chunks];
            shape.extend(extents.shape(&state.axes));
            shape.extend(state.complex.then_some(2));
            let memory = match self.device() {
                Device::Cpu(_) => Memory::Host(Tensor::zeros(dtype, &shape)?),
                Device::Cuda(cuda) => Memory::Cuda(DeviceTensor::unwritten(cuda, dtype, &shape)?),
            };
            saved.push(Saved {
                state: state.name.clone(),
                memory,
            });
        }
        Ok(Checkpoints {
            spec,
            extents: extents.clone(),
            saved,
        })
    }

    fn adjoint(&self, wanted: &Wanted, spec: &Spec) -> Result<Arc<Backward>, Error> {
        let known = &self.gradient_code().adjoints;
        if let Some(known) = lock(known).get(wanted) {
            return Ok(known.clone());
        }
        let mut primal = self.prepared(spec)?.specialized.clone();
        // Outputs say what the batch is, so before any is left out.
        if wanted.boundaries {
            primal = primal.with_boundaries();
        }
        let mut keep = wanted.outputs.iter();
        primal.outputs.retain(|_| keep.next() == Some(&true));
        let by: Vec<&str> = wanted.by.iter().map(String::as_str).collect();
        let made = Backward::new(&primal, &by).map_err(|why| Error::Gradient {
            kernel: primal.name.clone(),
            why: why.to_string(),
        })?;
        let made = Arc::new(made);
        lock(known).insert(wanted.clone(), made.clone());
        Ok(made)
    }

    /// The plan of the gradients by `by` for a loss of all outputs and last states, with a default or forced schedule.
    ///
    /// # Errors
    /// Where there is no such gradient, or a forced schedule does not fit.
    pub fn plan_backward(
        &self,
        spec: &Spec,
        extents: &Extents,
        by: &[&str],
    ) -> Result<Plan, Error> {
        self.plan_backward_for(self.device().target(), spec, extents, by)
    }

    /// The same for another machine.
    ///
    /// # Errors
    /// As [`Kernel::plan_backward`].
    pub fn plan_backward_for(
        &self,
        target: &Target,
        spec: &Spec,
        extents: &Extents,
        by: &[&str],
    ) -> Result<Plan, Error> {
        let r = self.recurrence();
        let mut spec = spec.clone();
        spec.save = self.steps(target, &spec, extents);
        let wanted = Wanted {
            given: spec.inputs.iter().map(Option::is_some).collect(),
            boundaries: spec.boundaries,
            outputs: vec![true; r.outputs.len()],
            by: by.iter().map(|&name| name.to_owned()).collect(),
        };
        let backward = self.adjoint(&wanted, &spec)?;
        let adjoint = &backward.adjoint.recurrence;
        let mut own = Spec::new(adjoint, spec.outputs.first().copied().unwrap_or(Dtype::F32));
        own.last.fill(Some(spec.compute().storage()));
        self.plan_adjoint(
            &backward,
            adjoint,
            &own,
            &backward.extents(extents),
            (spec.save, spec.compute(), target),
        )
    }

    fn plan_adjoint(
        &self,
        backward: &Backward,
        adjoint: &Recurrence,
        spec: &Spec,
        extents: &Extents,
        (save, compute, target): (u32, Ty, &Target),
    ) -> Result<Plan, Error> {
        let mut options = spec.options(adjoint);
        (options.save, options.compute) = (save, compute);
        Ok(match self.gradient.schedule {
            Some(schedule) => {
                backward.plan(extents, &options, target, &Schedule { save, ..schedule })?
            }
            None => backward.default_plan(extents, &options, target)?,
        })
    }

    fn backward_code(
        &self,
        wanted: &Wanted,
        backward: &Backward,
        adjoint: &Recurrence,
        (spec, extents): (&Spec, &Extents),
        checkpoints: &Checkpoints,
    ) -> Result<Arc<Code>, Error> {
        let (save, compute) = (checkpoints.steps(), checkpoints.spec.compute());
        let mut spec = spec.clone();
        spec.save = save;
        let key = (
            wanted.clone(),
            spec.clone(),
            extents.clone(),
            self.gradient.schedule,
        );
        let known = &self.gradient_code().code;
        if let Some(code) = lock(known).get(&key) {
            return Ok(code.clone());
        }
        let how = (save, compute, self.device().target());
        let plan = self.plan_adjoint(backward, adjoint, &spec, extents, how)?;
        let code = self.device().code(&plan)?;
        let mut all = lock(known);
        if all.len() >= MOST_SHAPES {
            all.clear();
        }
        all.insert(key, code.clone());
        Ok(code)
    }
}

/// The arguments of the adjoint, and it for callers who do not give what is made on the way.
fn call_of<'a>(
    backward: &'a Backward,
    args: Args<'a>,
    gradients: Gradients<'a>,
) -> (Recurrence, Args<'a>) {
    let mut adjoint = backward.adjoint.recurrence.clone();
    let of = |pairs: &'a [(String, String)], name: &str| {
        let found = pairs.iter().find(|(n, _)| n == name);
        found.map(|(_, d)| d.as_str())
    };
    let reads = |name: &str| adjoint.input_named(name).is_some();
    let mut out = Args::new();
    out.inputs
        .extend(args.inputs.into_iter().filter(|(name, _)| reads(name)));
    for (name, tensor) in gradients.cotangents {
        if let Some(input) = of(&backward.adjoint.cotangents, name) {
            out.inputs.push((input, tensor));
        }
    }
    for (name, tensor) in gradients.last {
        if let Some(state) = of(&backward.adjoint.states, name) {
            out.initial.push((state, tensor));
        }
    }
    for (name, tensor) in gradients.gradients {
        if let Some(d) = of(&backward.adjoint.gradients, name) {
            match adjoint.state_named(d) {
                Some(_) => out.last.push((d, tensor)),
                None => out.outputs.push((d, tensor)),
            }
        }
    }
    for (name, tensor) in gradients.initial {
        if let Some(state) = of(&backward.adjoint.states, name) {
            out.last.push((state, tensor));
        }
    }
    let there: Vec<&str> = out.inputs.iter().map(|(name, _)| *name).collect();
    for input in &mut adjoint.inputs {
        input.optional = !there.contains(&input.name.as_str());
    }
    (adjoint, out)
}

/// The memory of a backward run, by the adjoint's numbers.
fn bind<'b>(
    call: Call<'b>,
    backward: &Backward,
    adjoint: &Recurrence,
    made: &'b HashMap<String, Temporary>,
    checkpoints: &'b Checkpoints,
) -> Bindings<'b> {
    let mut bindings = Bindings::new();
    for (i, (decl, tensor)) in adjoint.inputs.iter().zip(call.inputs).enumerate() {
        let tensor = tensor.or_else(|| made.get(&decl.name).map(Temporary::view));
        if let Some(tensor) = tensor {
            bindings.input(InputId(i as u32), tensor);
        }
    }
    for saved in &checkpoints.saved {
        if let Some(StateId(s)) = backward.primal.state_named(&saved.state) {
            let number = adjoint.inputs.len() as u32 + s;
            bindings.input(InputId(number), saved.memory.view());
        }
    }
    for (s, state) in call.states.into_iter().enumerate() {
        let id = StateId(s as u32);
        if let StateArgs::Apart(initial, last) = state {
            if let Some(initial) = initial {
                bindings.initial(id, initial);
            }
            if let Some(last) = last {
                bindings.last(id, last);
            }
        }
    }
    for (k, tensor) in call.outputs.into_iter().enumerate() {
        bindings.output(k as u32, tensor);
    }
    bindings
}
