//! Time on a GPU. In: a kernel and its arguments. Out: [`Times`] of a launch over data that no cache holds.
//!
//! Launches rotate over so many sets of inputs and outputs that the inputs are together larger than three times the L2
//! cache. `ms` is the median time between two events around one launch: what the host needs to launch is part of it
//! where that takes longer. `graph_ms` is the time of a launch in replays of one CUDA graph of all sets: without it.

use std::collections::{BTreeMap, BTreeSet};

use selscan_runtime::{Args, Cuda, DeviceTensor, Dtype, Error, Kernel, OwnedArgs, OwnedResults};
use selscan_runtime::{Graph, Tensor};

use crate::case::normal;

/// The inputs of all sets are together this many times as large as the L2 cache.
const CACHES: f64 = 3.0;
/// Launches that do not count.
const WARM_UPS: usize = 5;
/// Calls that take less are also timed in a graph, milliseconds.
const LAUNCH_BOUND: f64 = 1.0;
/// Calls that take longer are timed fewer times, milliseconds: a poor schedule must not use up the time of all.
const SLOW: f64 = 100.0;
/// Bytes of the tensor that is copied to measure the memory's bandwidth: many times the cache.
const COPIED: usize = 1 << 30;

type Tensors = BTreeMap<String, DeviceTensor>;

/// The tensors of one call on the GPU; states, if they are given, are updated in place.
pub struct Set {
    inputs: Tensors,
    flags: BTreeSet<String>,
    states: Tensors,
    outputs: Tensors,
}

impl Set {
    /// A copy of the arguments, and room for the outputs.
    pub fn new(cuda: &Cuda, kernel: &Kernel, args: &OwnedArgs) -> Result<Set, Error> {
        let up = |tensors: &BTreeMap<String, Tensor>| {
            let each = tensors.iter();
            each.map(|(name, t)| Ok((name.clone(), DeviceTensor::from_tensor(cuda, t)?)))
                .collect::<Result<Tensors, Error>>()
        };
        let results = kernel.results(args)?;
        let room = results.outputs.iter().map(|(name, t)| {
            let mut room = DeviceTensor::zeros(cuda, t.dtype(), t.shape())?;
            room.poison()?;
            Ok((name.clone(), room))
        });
        Ok(Set {
            inputs: up(&args.inputs)?,
            flags: args.flags.clone(),
            states: up(&args.initial)?,
            outputs: room.collect::<Result<_, Error>>()?,
        })
    }

    /// Queues a call: of one step if there are states.
    pub fn launch(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let mut args = Args::new();
        for (name, tensor) in &self.inputs {
            args = args.input(name, tensor);
        }
        for name in &self.flags {
            args = args.flag(name);
        }
        for (name, tensor) in &mut self.outputs {
            args = args.output(name, tensor);
        }
        if self.states.is_empty() {
            return kernel.launch(args);
        }
        for (name, tensor) in &mut self.states {
            args = args.state_in_place(name, tensor);
        }
        kernel.step(args)
    }

    /// Makes NaN of what a call is to write.
    pub fn poison(&mut self) -> Result<(), Error> {
        let mut outputs = self.outputs.values_mut();
        outputs.try_for_each(DeviceTensor::poison)
    }

    /// What the last call gave, on the host.
    pub fn results(&self) -> Result<OwnedResults, Error> {
        let down = |tensors: &Tensors| {
            let each = tensors.iter();
            each.map(|(name, t)| Ok((name.clone(), t.to_tensor()?)))
                .collect::<Result<_, Error>>()
        };
        Ok(OwnedResults {
            outputs: down(&self.outputs)?,
            last: down(&self.states)?,
        })
    }
}

/// What a call reads and writes, each element once.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub read: f64,
    pub written: f64,
}

impl Traffic {
    /// That of a call with these arguments.
    pub fn of(kernel: &Kernel, args: &OwnedArgs) -> Result<Traffic, Error> {
        let bytes = |tensors: &BTreeMap<String, Tensor>| {
            let each = tensors.values().map(|t| t.len() * t.dtype().bytes());
            each.sum::<usize>() as f64
        };
        let states = bytes(&args.initial);
        Ok(Traffic {
            read: bytes(&args.inputs) + states,
            written: bytes(&kernel.results(args)?.outputs) + states,
        })
    }

    /// Both.
    pub fn sum(self) -> f64 {
        self.read + self.written
    }
}

/// As many sets as it takes for none to be in the cache when its turn comes: at most `most`, and as many as the memory
/// holds. `arguments` makes those of a set; the first ones are there.
pub fn sets(
    cuda: &Cuda,
    kernel: &Kernel,
    first: &OwnedArgs,
    most: usize,
    arguments: impl Fn(u64) -> Result<OwnedArgs, Error>,
) -> Result<Vec<Set>, Error> {
    let read = Traffic::of(kernel, first)?.read;
    let wanted = (CACHES * cuda.target().l2 as f64 / read.max(1.0)).ceil() as usize;
    let mut sets = vec![Set::new(cuda, kernel, first)?];
    for i in 1..wanted.clamp(1, most) {
        match Set::new(cuda, kernel, &arguments(i as u64)?) {
            Ok(set) => sets.push(set),
            Err(Error::DeviceMemory { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sets)
}

/// Times of one call, milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub ms: f64,
    pub least: f64,
    pub most: f64,
    pub repeats: usize,
    pub graph_ms: Option<f64>,
}

impl Times {
    /// Without the host's part, where that was measured.
    pub fn best(&self) -> f64 {
        self.graph_ms.unwrap_or(self.ms)
    }
}

/// Times calls over the sets in turn, `repeats` of them.
pub fn times(
    cuda: &Cuda,
    kernel: &Kernel,
    sets: &mut [Set],
    repeats: usize,
) -> Result<Times, Error> {
    let count = sets.len();
    let mut next = 0;
    let mut call = || {
        next += 1;
        sets[(next - 1) % count].launch(kernel)
    };
    // From here on launches have all that they need.
    (0..=count).try_for_each(|_| call())?;
    let pilot = spans(cuda, 1, &mut call)?[0];
    let repeats = if pilot > SLOW { 3 } else { repeats };
    spans(cuda, WARM_UPS.min(repeats), &mut call)?;
    let spans = spans(cuda, repeats, &mut call)?;
    let (least, most) = (spans[0], spans[spans.len() - 1]);
    let ms = spans[spans.len() / 2];
    let graph_ms = if ms < LAUNCH_BOUND {
        Some(in_graph(cuda, kernel, sets, repeats)?)
    } else {
        None
    };
    Ok(Times {
        ms,
        least,
        most,
        repeats,
        graph_ms,
    })
}

/// Milliseconds of a call in replays of a graph that calls once for each set.
fn in_graph(cuda: &Cuda, kernel: &Kernel, sets: &mut [Set], repeats: usize) -> Result<f64, Error> {
    let count = sets.len();
    let graph: Graph = cuda.capture(|| sets.iter_mut().try_for_each(|set| set.launch(kernel)))?;
    let mut replay = || graph.launch();
    spans(cuda, WARM_UPS, &mut replay)?;
    let spans = spans(cuda, repeats, &mut replay)?;
    Ok(spans[spans.len() / 2] / count as f64)
}

/// Milliseconds of each of some pieces of work, queued one after another; sorted.
pub fn spans(
    cuda: &Cuda,
    count: usize,
    work: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<Vec<f64>, Error> {
    let mut events = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let started = cuda.event()?;
        work()?;
        events.push((started, cuda.event()?));
    }
    let each = events.iter();
    let each = each.map(|(started, ended)| Ok(1e3 * ended.seconds_since(started)?));
    let mut spans = each.collect::<Result<Vec<f64>, Error>>()?;
    spans.sort_by(f64::total_cmp);
    Ok(spans)
}

/// Bytes a second of a copy on the GPU, read and written ones: what the memory gives.
pub fn copy_bandwidth(cuda: &Cuda, repeats: usize) -> Result<f64, Error> {
    let host = normal(Dtype::Bf16, &[COPIED / Dtype::Bf16.bytes()], 1)?;
    let from = DeviceTensor::from_tensor(cuda, &host)?;
    let mut to = from.copy()?;
    let mut copy = || to.copy_from_device(&from);
    // Long enough for the clocks to rise.
    spans(cuda, 100, &mut copy)?;
    let spans = spans(cuda, repeats, &mut copy)?;
    Ok(2.0 * COPIED as f64 / (spans[spans.len() / 2] / 1e3))
}
