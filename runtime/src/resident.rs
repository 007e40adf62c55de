//! The arguments and results of a run where its kernel runs: uploaded once, launched many times.
//!
//! In: a kernel, [`OwnedArgs`]. Out: launches, times of launches, results. On a GPU there may be several copies, used in
//! turn, so that no launch finds what it reads in the cache: a kernel's neighbours in a network don't leave it there.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::args::Args;
use crate::buffer::Tensor;
use crate::device::{Cuda, Device, DeviceTensor};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::owned::{OwnedArgs, OwnedResults};

/// Copies are together this many times as large as the last cache, if there are not too many.
const CACHES: f64 = 3.0;
/// The most copies.
const MOST_COPIES: usize = 48;
/// The least time of a measurement on a GPU, seconds; shorter launches are repeated within it.
const LEAST: f64 = 1e-3;
/// The most launches of a measurement.
const MOST_LAUNCHES: f64 = 100.0;

/// A run's arguments and results on its kernel's device.
pub struct Resident<'a> {
    args: &'a OwnedArgs,
    memory: Memory,
}

enum Memory {
    Host(OwnedResults),
    Cuda {
        cuda: Cuda,
        copies: Vec<Copy>,
        /// The copy that the next launch uses.
        next: usize,
    },
}

type Tensors = BTreeMap<String, DeviceTensor>;

/// A run's tensors on a GPU.
struct Copy {
    inputs: Tensors,
    initial: Tensors,
    outputs: Tensors,
    last: Tensors,
}

impl Copy {
    fn new(cuda: &Cuda, args: &OwnedArgs, results: &OwnedResults) -> Result<Copy, Error> {
        let up = |tensors: &BTreeMap<String, Tensor>| {
            let each = tensors.iter();
            each.map(|(name, t)| Ok((name.clone(), DeviceTensor::from_tensor(cuda, t)?)))
                .collect::<Result<Tensors, Error>>()
        };
        Ok(Copy {
            inputs: up(&args.inputs)?,
            initial: up(&args.initial)?,
            outputs: up(&results.outputs)?,
            last: up(&results.last)?,
        })
    }

    fn args<'a>(&'a mut self, host: &'a OwnedArgs) -> Args<'a> {
        let mut args = Args::new();
        for (name, tensor) in &self.inputs {
            args = args.input(name, tensor);
        }
        for name in &host.flags {
            args = args.flag(name);
        }
        for (name, tensor) in &self.initial {
            args = args.initial(name, tensor);
        }
        if let Some((seq_idx, shape)) = &host.seq_idx {
            args = args.boundaries(seq_idx, shape);
        }
        for (name, tensor) in &mut self.outputs {
            args = args.output(name, tensor);
        }
        for (name, tensor) in &mut self.last {
            args = args.last(name, tensor);
        }
        args
    }
}

fn bytes<'t>(tensors: impl Iterator<Item = &'t Tensor>) -> f64 {
    tensors.map(|t| (t.len() * t.dtype().bytes()) as f64).sum()
}

impl<'a> Resident<'a> {
    /// One copy.
    ///
    /// # Errors
    /// As [`Kernel::results`] and [`DeviceTensor::from_tensor`].
    pub fn new(kernel: &Kernel, args: &'a OwnedArgs) -> Result<Resident<'a>, Error> {
        Resident::with_copies(kernel, args, |_| 1)
    }

    /// As many copies as it takes for none to be in the device's cache when its turn comes; one on a CPU, whose caches
    /// a kernel of any size that matters overflows itself.
    ///
    /// # Errors
    /// As [`Resident::new`].
    pub fn past_cache(kernel: &Kernel, args: &'a OwnedArgs) -> Result<Resident<'a>, Error> {
        let cache = kernel.device().target().l2 as f64;
        Resident::with_copies(kernel, args, |bytes| {
            ((CACHES * cache / bytes.max(1.0)).ceil() as usize).clamp(1, MOST_COPIES)
        })
    }

    fn with_copies(
        kernel: &Kernel,
        args: &'a OwnedArgs,
        copies: impl Fn(f64) -> usize,
    ) -> Result<Resident<'a>, Error> {
        let results = kernel.results(args)?;
        let memory = match kernel.device() {
            Device::Cpu(_) => Memory::Host(results),
            Device::Cuda(cuda) => {
                let all = bytes(args.inputs.values().chain(args.initial.values()))
                    + bytes(results.outputs.values().chain(results.last.values()));
                let copies = (0..copies(all)).map(|_| Copy::new(cuda, args, &results));
                Memory::Cuda {
                    cuda: cuda.clone(),
                    copies: copies.collect::<Result<_, _>>()?,
                    next: 0,
                }
            }
        };
        Ok(Resident { args, memory })
    }

    /// Launches the kernel; on a GPU it is queued. `kernel` is on the device that the arguments are on.
    ///
    /// # Errors
    /// As [`Kernel::launch`].
    pub fn launch(&mut self, kernel: &Kernel) -> Result<(), Error> {
        match &mut self.memory {
            Memory::Host(results) => kernel.launch(self.args.args(results)),
            Memory::Cuda { copies, next, .. } => {
                let at = *next % copies.len();
                *next = at + 1;
                kernel.launch(copies[at].args(self.args))
            }
        }
    }

    /// Makes NaN of what the next launch is to write.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn poison(&mut self) -> Result<(), Error> {
        match &mut self.memory {
            Memory::Host(results) => {
                results.fill(f64::NAN);
                Ok(())
            }
            Memory::Cuda { copies, next, .. } => {
                let at = *next % copies.len();
                let copy = &mut copies[at];
                let written = copy.outputs.values_mut().chain(copy.last.values_mut());
                written.into_iter().try_for_each(DeviceTensor::poison)
            }
        }
    }

    /// What the last launch gave (the first copy's results before any), on the host.
    ///
    /// # Errors
    /// As [`Cuda::synchronize`].
    pub fn results(&self) -> Result<OwnedResults, Error> {
        let mut found = OwnedResults::default();
        match &self.memory {
            Memory::Host(results) => {
                let copy = |tensors: &BTreeMap<String, Tensor>| {
                    let each = tensors.iter();
                    each.map(|(name, t)| Ok((name.clone(), t.prefix(t.shape())?)))
                        .collect::<Result<_, Error>>()
                };
                found.outputs = copy(&results.outputs)?;
                found.last = copy(&results.last)?;
            }
            Memory::Cuda { copies, next, .. } => {
                let last = &copies[next.saturating_sub(1) % copies.len()];
                let down = |tensors: &Tensors| {
                    let each = tensors.iter();
                    each.map(|(name, t)| Ok((name.clone(), t.to_tensor()?)))
                        .collect::<Result<_, Error>>()
                };
                found.outputs = down(&last.outputs)?;
                found.last = down(&last.last)?;
            }
        }
        Ok(found)
    }

    /// Seconds of a launch: the median of `repeats` measurements after a launch that does not count. If the first one takes
    /// longer than `hopeless`, it is all there is. On a GPU between events on the stream, so the host's part of a
    /// launch does not count as long as it keeps up.
    ///
    /// # Errors
    /// As [`Kernel::launch`].
    pub fn seconds(
        &mut self,
        kernel: &Kernel,
        repeats: usize,
        hopeless: f64,
    ) -> Result<f64, Error> {
        self.launch(kernel)?;
        kernel.device().synchronize()?;
        let mut times = vec![self.measure(kernel, 1)?];
        if times[0] <= hopeless {
            let launches = match self.memory {
                Memory::Host(_) => 1,
                Memory::Cuda { .. } => {
                    let launches = (LEAST / times[0].max(1e-9)).clamp(1.0, MOST_LAUNCHES);
                    // One launch alone is a poor measure of a short one.
                    times.clear();
                    launches.ceil() as usize
                }
            };
            while times.len() < repeats.max(1) {
                times.push(self.measure(kernel, launches)?);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// Seconds of each of some launches on end.
    fn measure(&mut self, kernel: &Kernel, launches: usize) -> Result<f64, Error> {
        let cuda = match &self.memory {
            Memory::Host(_) => None,
            Memory::Cuda { cuda, .. } => Some(cuda.clone()),
        };
        let all = match cuda {
            None => {
                let started = Instant::now();
                (0..launches).try_for_each(|_| self.launch(kernel))?;
                started.elapsed().as_secs_f64()
            }
            Some(cuda) => {
                let started = cuda.event()?;
                (0..launches).try_for_each(|_| self.launch(kernel))?;
                cuda.event()?.seconds_since(&started)?
            }
        };
        Ok(all / launches as f64)
    }
}
