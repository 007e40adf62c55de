//! One kernel with its arguments, ready to run. In: what the command line says of it. Out: [`Job`].

use std::path::Path;

use selscan_codegen::{Algorithm, Dtype, Plan, Schedule, candidates};
use selscan_dsl::Extents;
use selscan_runtime::{
    Cpu, CpuOptions, Cuda, Device, DeviceName, Kernel, OwnedArgs, OwnedResults, Spec, Tensor,
};

use super::args::{DeviceArgs, KernelArgs};
use super::failure::Failure;
use super::floor::Floor;
use super::source::Source;
use super::{data, files};

/// A kernel and its arguments.
pub struct Job {
    pub source: Source,
    pub kernel: Kernel,
    pub args: OwnedArgs,
    pub spec: Spec,
    pub extents: Extents,
    /// Tensors of the input file that the kernel has no use for.
    pub ignored: Vec<String>,
}

/// The CPU with the threads asked for.
pub fn cpu(threads: Option<u16>) -> Result<Cpu, Failure> {
    let options = CpuOptions {
        threads: threads.map(usize::from),
        ..CpuOptions::default()
    };
    Ok(Cpu::with_options(options)?)
}

/// The device asked for: by its name; the CPU if threads are; else the best there is.
pub fn device(args: DeviceArgs) -> Result<Device, Failure> {
    match (args.device, args.threads) {
        (Some(DeviceName::Cuda(_)), Some(_)) => Err(Failure::Usage(
            "--threads is about the CPU: leave it out, or say --device cpu".into(),
        )),
        (Some(DeviceName::Cuda(ordinal)), None) => Ok(Device::Cuda(Cuda::new(ordinal)?)),
        (Some(DeviceName::Cpu), threads) | (None, threads @ Some(_)) => {
            Ok(Device::Cpu(cpu(threads)?))
        }
        (None, None) => Ok(Device::best()?),
    }
}

impl Job {
    /// A kernel on made-up data.
    pub fn made_up(args: &KernelArgs, schedule: Option<Schedule>) -> Result<Job, Failure> {
        let source = Source::load(&args.source, args.kernel.as_deref())?;
        Job::with_data(source, args, schedule)
    }

    /// The same for a kernel at hand.
    pub fn with_data(
        source: Source,
        args: &KernelArgs,
        schedule: Option<Schedule>,
    ) -> Result<Job, Failure> {
        let extents = data::extents(&source, &args.shape)?;
        let made = data::make(&source, args, &extents, args.dtype.unwrap_or(Dtype::F32))?;
        Job::new(source, made, &device(args.device)?, schedule, vec![])
    }

    /// A kernel as it would be called on made-up data, without the data.
    pub fn described(
        args: &KernelArgs,
        schedule: Option<Schedule>,
        device: &Device,
    ) -> Result<Job, Failure> {
        let source = Source::load(&args.source, args.kernel.as_deref())?;
        let r = &source.recurrence;
        let extents = data::extents(&source, &args.shape)?;
        let dtype = args.dtype.unwrap_or(Dtype::F32);
        let mut spec = Spec::new(r, dtype);
        for name in data::given(r, &args.without)? {
            spec = spec.with_input(r, &name, dtype)?;
        }
        let kernel = device.kernel(r.clone());
        Ok(Job {
            kernel: schedule.map_or(kernel.clone(), |s| kernel.with_schedule(s)),
            args: OwnedArgs::default(),
            spec,
            extents,
            source,
            ignored: vec![],
        })
    }

    /// A kernel on the tensors of a file.
    pub fn from_file(
        args: &KernelArgs,
        schedule: Option<Schedule>,
        input: &Path,
        flags: &[String],
    ) -> Result<Job, Failure> {
        let made_up = [
            ("--shape", args.shape.is_empty()),
            ("--without", args.without.is_empty()),
            ("--range", args.range.is_empty()),
        ];
        if let Some((option, _)) = made_up.iter().find(|(_, empty)| !empty) {
            return Err(Failure::Usage(format!(
                "{option} is about made-up data: leave it out with --input"
            )));
        }
        let source = Source::load(&args.source, args.kernel.as_deref())?;
        let loaded = files::load(input, &source.recurrence, flags, args.dtype)?;
        let device = device(args.device)?;
        Job::new(source, loaded.args, &device, schedule, loaded.ignored)
    }

    fn new(
        source: Source,
        args: OwnedArgs,
        device: &Device,
        schedule: Option<Schedule>,
        ignored: Vec<String>,
    ) -> Result<Job, Failure> {
        let kernel = device.kernel(source.recurrence.clone());
        let kernel = schedule.map_or(kernel.clone(), |s| kernel.with_schedule(s));
        let (spec, extents) = kernel.resolve(&args)?;
        Ok(Job {
            source,
            kernel,
            args,
            spec,
            extents,
            ignored,
        })
    }

    /// The schedule of every stage: asked for, tuned or the default.
    pub fn schedules(&self) -> Result<Vec<Schedule>, Failure> {
        let plans = self.kernel.plan(&self.spec, &self.extents)?;
        Ok(plans.iter().map(|p| p.schedule).collect())
    }

    /// The same kernel in scalar code on one thread at a time: one lane, one vector, time in order.
    pub fn scalar(&self) -> Result<Kernel, Failure> {
        let options = self.spec.options(&self.source.recurrence);
        let target = self.kernel.device().target();
        let mut scalar = Vec::new();
        for (scan, chosen) in self.kernel.scans(&self.spec)?.iter().zip(self.schedules()?) {
            let plain = Schedule {
                algorithm: Algorithm::Sequential,
                lanes: 1,
                block: 1,
                ..chosen
            };
            let fits = |s: &Schedule| Plan::new(scan, &self.extents, &options, target, s).is_ok();
            let all = || candidates(scan, &self.extents, &options, target);
            let any = || {
                all()
                    .into_iter()
                    .find(|s| s.lanes == 1 && s.algorithm == Algorithm::Sequential)
            };
            let found = Some(plain).filter(fits).or_else(any);
            scalar.push(found.ok_or_else(|| {
                Failure::Internal(format!(
                    "{} has no scalar schedule",
                    self.source.recurrence.name
                ))
            })?);
        }
        Ok(self.kernel.with_schedules(&scalar))
    }

    /// The extents by the names of axes, aliases left out.
    pub fn shape(&self) -> Vec<(String, usize)> {
        let r = &self.source.recurrence;
        let own = (0..r.axes.len()).filter(|&i| r.axes[i].alias_of.is_none());
        own.map(|i| (r.axes[i].name.clone(), self.extents.0[i]))
            .collect()
    }

    /// `B=1 L=2048 D=1536 N=16`
    pub fn shape_text(&self) -> String {
        let each = self
            .shape()
            .into_iter()
            .map(|(axis, n)| format!("{axis}={n}"));
        each.collect::<Vec<_>>().join(" ")
    }

    /// How many state points a run computes: the points of every state at every step (of the outputs, without states).
    pub fn points(&self) -> f64 {
        self.source.recurrence.points(&self.extents)
    }

    /// The bytes of everything that a run reads and writes, each element once.
    pub fn bytes(&self, results: &OwnedResults) -> f64 {
        let all = [
            &self.args.inputs,
            &self.args.initial,
            &results.outputs,
            &results.last,
        ];
        let size = |t: &Tensor| (t.len() * t.dtype().bytes()) as f64;
        all.into_iter()
            .flat_map(|tensors| tensors.values())
            .map(size)
            .sum()
    }

    /// What its GPU allows at best, if it runs on one, when it moves `bytes`.
    pub fn floor(&self, bytes: f64) -> Result<Option<Floor>, Failure> {
        Ok(Floor::of(&self.kernel, &self.spec, &self.extents, bytes)?)
    }

    /// The type of the first output.
    pub fn dtype(&self) -> Dtype {
        self.spec.outputs.first().copied().unwrap_or(Dtype::F32)
    }
}
