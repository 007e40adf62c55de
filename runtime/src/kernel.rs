//! A kernel: a recurrence on a device, compiled when a launch first needs it.
//!
//! In: a recurrence, then arguments. Out: outputs and last states in the caller's memory. Each combination of
//! given inputs, states, element types and of the extents that plans compile in has code of its own, kept in
//! memory; launches that differ only in run-time extents share it.
//!
//! Arithmetic is in f64 if any tensor of the launch is f64, else in f32.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use selscan_codegen::{Plan, Refusal, Schedule, default_plan};
use selscan_dsl::scan::{Scan, prepare};
use selscan_dsl::{AxisId, Extents, Recurrence};

use crate::args::Args;
use crate::cache::lock;
use crate::call::Call;
use crate::checkpoints::Saved;
use crate::device::{Code, Cpu, Cuda, Device, DeviceName};
use crate::error::Error;
use crate::gradient::{GradientCode, GradientOptions};
use crate::place::{self, Staging};
use crate::run::{no_steps, run};
use crate::spec::Spec;
use crate::store::{Key, Record};

/// The most shapes whose choice of code is remembered at once; the code itself is shared among shapes.
const MOST_SHAPES: usize = 1024;

/// A recurrence on a device. Cheap to clone; clones share compiled code.
#[derive(Clone)]
pub struct Kernel {
    device: Device,
    shared: Arc<Shared>,
    forced: Option<Vec<Schedule>>,
    pub(crate) gradient: GradientOptions,
}

/// What was made, by what it was made from.
type Memo<K, V> = Mutex<HashMap<K, Arc<V>>>;

struct Shared {
    recurrence: Recurrence,
    /// By what is given and whether sequences are packed.
    prepared: Memo<(Vec<bool>, bool), Prepared>,
    compiled: Memo<(Spec, Extents, Option<Vec<Schedule>>), Compiled>,
    gradients: GradientCode,
    /// What the tuner found, also where the store can't keep it.
    tuned: Mutex<HashMap<Key, Record>>,
}

/// A recurrence for one choice of optional inputs.
pub(crate) struct Prepared {
    /// What is given is an input, what is not is gone.
    pub specialized: Recurrence,
    /// Its stages, one per direction of time.
    pub stages: Vec<Scan>,
}

/// The code of one specialisation at some extents.
pub struct Compiled {
    pub(crate) prepared: Arc<Prepared>,
    stages: Vec<CompiledStage>,
}

/// The code of one stage: of one direction of time.
pub struct CompiledStage {
    /// The schedule that was used.
    pub schedule: Schedule,
    /// Its code.
    pub program: Arc<Code>,
}

impl Compiled {
    /// The stages in the order in which they run.
    #[must_use]
    pub fn stages(&self) -> &[CompiledStage] {
        &self.stages
    }
    /// The stages' recurrences, classified.
    #[must_use]
    pub fn scans(&self) -> &[Scan] {
        &self.prepared.stages
    }
    /// How long compiling its code took (lowering not included), whoever asked first.
    #[must_use]
    pub fn jit_time(&self) -> Duration {
        self.stages.iter().map(|s| s.program.jit_time()).sum()
    }
}

impl Cpu {
    /// A recurrence on this device; nothing is compiled yet.
    #[must_use]
    pub fn kernel(&self, recurrence: Recurrence) -> Kernel {
        Device::from(self).kernel(recurrence)
    }
}

impl Cuda {
    /// A recurrence on this device; nothing is compiled yet.
    #[must_use]
    pub fn kernel(&self, recurrence: Recurrence) -> Kernel {
        Device::from(self).kernel(recurrence)
    }
}

impl Device {
    /// A recurrence on this device; nothing is compiled yet.
    #[must_use]
    pub fn kernel(&self, recurrence: Recurrence) -> Kernel {
        Kernel {
            device: self.clone(),
            shared: Arc::new(Shared {
                recurrence,
                prepared: Mutex::default(),
                compiled: Mutex::default(),
                gradients: GradientCode::default(),
                tuned: Mutex::default(),
            }),
            forced: None,
            gradient: GradientOptions::default(),
        }
    }
}

impl Kernel {
    /// The recurrence as it was written.
    #[must_use]
    pub fn recurrence(&self) -> &Recurrence {
        &self.shared.recurrence
    }
    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same kernel, with the code that it has, on another stream of its GPU ([`Cuda::on_stream`]).
    ///
    /// # Errors
    /// [`Error::Placement`] if it is on another device, or on a handle of its own of the same GPU: code belongs to one.
    pub fn on(&self, cuda: &Cuda) -> Result<Kernel, Error> {
        match &self.device {
            Device::Cuda(own) if own.is_same_gpu(cuda) => Ok(Kernel {
                device: Device::Cuda(cuda.clone()),
                ..self.clone()
            }),
            own => Err(Error::Placement {
                kernel: self.recurrence().name.clone(),
                device: own.name().to_string(),
                odd: format!("the stream is of another handle, of {}", DeviceName::Cuda(cuda.ordinal())),
                remedy: "make the stream's handle with `on_stream` of the kernel's, or a kernel on that handle".to_owned(),
            }),
        }
    }

    /// The same kernel with a schedule for every stage, in place of a tuned or the default one.
    #[must_use]
    pub fn with_schedule(&self, schedule: Schedule) -> Kernel {
        self.with_schedules(&[schedule])
    }

    /// The same kernel with a schedule per stage; stages beyond the last one use the last one.
    #[must_use]
    pub fn with_schedules(&self, schedules: &[Schedule]) -> Kernel {
        Kernel {
            forced: (!schedules.is_empty()).then(|| schedules.to_vec()),
            ..self.clone()
        }
    }

    /// Extents by the names of axes; aliases follow the axis that they stand for.
    ///
    /// # Errors
    /// If a name is no axis of the kernel, or an axis is left out.
    pub fn extents(&self, by_name: &[(&str, usize)]) -> Result<Extents, Error> {
        let r = self.recurrence();
        let known = || {
            r.axes
                .iter()
                .filter(|a| a.alias_of.is_none())
                .map(|a| a.name.clone())
        };
        for (name, _) in by_name {
            if r.axis_named(name).is_none() {
                return Err(Error::Unknown {
                    kernel: r.name.clone(),
                    what: "axis",
                    name: (*name).to_owned(),
                    nearest: crate::error::nearest(name, r.axes.iter().map(|a| a.name.as_str())),
                    known: known().collect(),
                });
            }
        }
        let extent = |i: u8| {
            let name = r.axis_name(r.canonical(AxisId(i)));
            let found = by_name.iter().find(|(n, _)| *n == name);
            found
                .map(|(_, extent)| *extent)
                .ok_or_else(|| Error::Missing {
                    kernel: r.name.clone(),
                    what: "axis",
                    name: name.to_owned(),
                    ty: "usize".to_owned(),
                    remedy: format!("add `(\"{name}\", …)` to the extents"),
                })
        };
        let all: Result<Vec<usize>, Error> = (0..r.axes.len() as u8).map(extent).collect();
        Ok(Extents(all?))
    }

    /// Runs the kernel: outputs and wanted last states are written, nothing else is.
    ///
    /// On a GPU, over tensors that are on it, the launch is queued on the stream of the kernel's [`Cuda`] and returns
    /// before it has run: nothing is copied, nobody waits, and once a launch like it was made nothing is allocated. Over
    /// tensors in the host's memory, they are copied to the GPU and back, and the results are there on return.
    ///
    /// # Errors
    /// Whatever is wrong with the arguments, before anything is written; see [`Error`].
    pub fn launch(&self, args: Args<'_>) -> Result<(), Error> {
        let (r, device) = (self.recurrence(), self.device());
        let staging = place::check(&r.name, &args, device.name())?;
        let call = Call::resolve(r, args)?;
        let prepared = self.prepared(&call.spec)?;
        let extents = call.extents(r, &prepared.specialized)?;
        self.run_call(staging, call, &prepared, &extents, &mut [])
    }

    /// A launch whose arguments were checked. `saved` has the memory of the states that are saved, by state.
    pub(crate) fn run_call(
        &self,
        staging: Staging,
        call: Call<'_>,
        prepared: &Prepared,
        extents: &Extents,
        saved: &mut [Saved],
    ) -> Result<(), Error> {
        let (r, device) = (self.recurrence(), self.device());
        if extents.get(r.time) == 0 {
            return no_steps(&prepared.specialized, device, call);
        }
        let written = r.outputs.iter().map(|o| &o.axes);
        let states = r.states.iter().map(|s| &s.axes);
        if written
            .chain(states)
            .all(|axes| extents.shape(axes).contains(&0))
        {
            return Ok(());
        }
        let compiled = self.compile(&call.spec, extents)?;
        match (staging, device) {
            (Staging::FromHost, Device::Cuda(cuda)) => {
                cuda.staged(call, |call| run(&compiled, device, call, extents, saved))
            }
            (Staging::InPlace | Staging::FromHost, _) => {
                run(&compiled, device, call, extents, saved)
            }
        }
    }

    /// Runs one step of time (decoding): [`Kernel::launch`] with an extent of 1 on the time axis and every state,
    /// those of `delay` included, in place.
    ///
    /// # Errors
    /// As [`Kernel::launch`]; if a state is not passed with [`Args::state_in_place`].
    pub fn step(&self, args: Args<'_>) -> Result<(), Error> {
        let r = self.recurrence();
        let passed = |name: &str| args.in_place.iter().any(|(n, _)| *n == name);
        if let Some(state) = r.states.iter().find(|s| !passed(&s.name)) {
            return Err(Error::Missing {
                kernel: r.name.clone(),
                what: "state",
                name: state.name.clone(),
                ty: format!("State<{}>", crate::call::axis_names(r, &state.axes)),
                remedy: format!(
                    "add `.state_in_place(\"{}\", …)` to the arguments",
                    state.name
                ),
            });
        }
        for output in &r.outputs {
            let at = output.axes.iter().position(|&a| a == r.time);
            let tensor = args.outputs.iter().find(|(n, _)| *n == output.name);
            let steps = at
                .zip(tensor)
                .and_then(|(at, (_, t))| t.shape().get(at).copied());
            if let Some(steps) = steps.filter(|&n| n != 1) {
                return Err(Error::Steps {
                    kernel: r.name.clone(),
                    axis: r.axis_name(r.time).to_owned(),
                    name: output.name.clone(),
                    steps,
                });
            }
        }
        self.launch(args)
    }

    /// The code for a specialisation at some extents, compiled now if it is not there.
    ///
    /// # Errors
    /// [`Error::Refused`] if a forced schedule does not fit; [`Error::Jit`] on a bug of the compiler.
    pub fn compile(&self, spec: &Spec, extents: &Extents) -> Result<Arc<Compiled>, Error> {
        let key = (spec.clone(), extents.clone(), self.forced.clone());
        if let Some(compiled) = lock(&self.shared.compiled).get(&key) {
            return Ok(compiled.clone());
        }
        let prepared = self.prepared(spec)?;
        let stage = |plan: Plan| {
            Ok(CompiledStage {
                schedule: plan.schedule,
                program: self.device().code(&plan)?,
            })
        };
        let plans = self.plan(spec, extents)?;
        let stages = plans.into_iter().map(stage).collect::<Result<_, Error>>()?;
        let compiled = Arc::new(Compiled { prepared, stages });
        let mut all = lock(&self.shared.compiled);
        if all.len() >= MOST_SHAPES {
            all.clear();
        }
        all.insert(key, compiled.clone());
        Ok(compiled)
    }

    /// The plan of each stage.
    ///
    /// # Errors
    /// [`Error::Refused`] if a forced schedule does not fit.
    pub fn plan(&self, spec: &Spec, extents: &Extents) -> Result<Vec<Plan>, Error> {
        let prepared = self.prepared(spec)?;
        let options = spec.options(self.recurrence());
        let target = self.device().target();
        let tuned = match &self.forced {
            Some(_) => None,
            None => self.tuned(spec, extents, prepared.stages.len()),
        };
        let plan = |(i, scan): (usize, &Scan)| {
            let new = |schedule: &Schedule| {
                let save = spec.save;
                Plan::new(
                    scan,
                    extents,
                    &options,
                    target,
                    &Schedule { save, ..*schedule },
                )
            };
            if let Some(forced) = &self.forced {
                return new(&forced[i.min(forced.len() - 1)]);
            }
            match tuned.as_ref().map(|schedules| new(&schedules[i])) {
                Some(Ok(plan)) => return Ok(plan),
                Some(Err(why)) => tracing::warn!("the tuned schedule does not fit: {why}"),
                None => {}
            }
            default_plan(scan, extents, &options, target)
        };
        let plans = prepared.stages.iter().enumerate().map(plan);
        Ok(plans.collect::<Result<_, Refusal>>()?)
    }

    /// The stages of the specialised recurrence, simplified and classified.
    ///
    /// # Errors
    /// None of a recurrence that was parsed.
    pub fn scans(&self, spec: &Spec) -> Result<Vec<Scan>, Error> {
        Ok(self.prepared(spec)?.stages.clone())
    }

    pub(crate) fn prepared(&self, spec: &Spec) -> Result<Arc<Prepared>, Error> {
        let given: Vec<bool> = spec.inputs.iter().map(Option::is_some).collect();
        let key = (given, spec.boundaries);
        if let Some(prepared) = lock(&self.shared.prepared).get(&key) {
            return Ok(prepared.clone());
        }
        let r = self.recurrence();
        let present = |name: &str| spec.is_given(r, name);
        let prepared = Arc::new(Prepared {
            specialized: r.specialize(&present),
            stages: prepare(r, &present, spec.boundaries),
        });
        lock(&self.shared.prepared).insert(key, prepared.clone());
        Ok(prepared)
    }

    /// The key under which a tuned schedule is remembered.
    pub(crate) fn key(&self, spec: &Spec, extents: &Extents) -> Key {
        let r = self.recurrence();
        let rounded = |(axis, &extent): (&selscan_dsl::AxisDecl, &usize)| {
            let bucket = extent.checked_next_power_of_two().unwrap_or(usize::MAX);
            format!("{} {bucket}", axis.name)
        };
        let bucket: Vec<String> = r.axes.iter().zip(&extents.0).map(rounded).collect();
        Key {
            target: self.device().target().name.clone(),
            compiler: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: r.to_string(),
            spec: spec.show(r),
            bucket: bucket.join(", "),
        }
    }

    /// What the tuner found for these extents, in this process or an earlier one.
    fn tuned(&self, spec: &Spec, extents: &Extents, stages: usize) -> Option<Vec<Schedule>> {
        let key = self.key(spec, extents);
        let known = lock(&self.shared.tuned).get(&key).cloned();
        let record = known.or_else(|| self.device().store().load(&key))?;
        let schedules = record.schedules.iter().map(|text| text.parse());
        match schedules.collect::<Result<Vec<Schedule>, _>>() {
            Ok(schedules) if schedules.len() == stages => return Some(schedules),
            Ok(found) => tracing::warn!(
                "{} tuned schedules were stored for {stages} stages of {}; the default is used, tune again",
                found.len(),
                self.recurrence().name
            ),
            Err(why) => tracing::warn!("{why}; the default is used, tune again"),
        }
        None
    }

    /// Uses what the tuner found from now on.
    pub(crate) fn remember(&self, key: Key, record: Record) {
        lock(&self.shared.tuned).insert(key, record);
        // The code of what else was tried goes with it.
        lock(&self.shared.compiled).clear();
    }
}

impl Kernel {
    /// What was made for its gradients.
    pub(crate) fn gradient_code(&self) -> &GradientCode {
        &self.shared.gradients
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Kernel({} on {:?})",
            self.recurrence().name,
            self.device()
        )
    }
}
