//! A GPU: its context, a stream of work on it, and the code that was compiled for it.
//!
//! In: an ordinal, perhaps the caller's stream. Out: [`Cuda`], which compiles programs ([`Cuda::compile`]), owns tensors
//! ([`crate::DeviceTensor`]) and queues launches. Nothing needs a toolkit: the driver and NVRTC are found when they are needed.
//!
//! ```text
//! driver   the driver's calls as Results      library  NVRTC, found at run time
//! memory   owned memory, copies, fills        nvrtc    CUDA C to a CUBIN
//! tensor   tensors on the GPU                 code     CUBINs on disk
//! pool     memory of launches                 index    which of them a plan was compiled to
//! staging  launches over the host's tensors   program  a program as kernels, launched
//! graph    launches recorded                  event    time
//! ptx      what NVRTC hands to its assembler, checked
//! carveout shared memory and cache of a multiprocessor
//! ```

mod carveout;
mod code;
mod driver;
pub(super) mod event;
pub(super) mod graph;
mod index;
mod library;
mod memory;
pub mod nvrtc;
pub(super) mod pool;
pub(super) mod program;
mod ptx;
mod staging;
pub(super) mod tensor;

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::{self, ThreadId};

use cudarc::driver::sys::{CUdevice, CUdevice_attribute, CUstream, CUstreamCaptureStatus};
use selscan_codegen::Target;
use selscan_codegen::target::Gpu as Features;

use self::driver::{Context, Entered, cu};
use self::graph::Held;
use self::pool::Pool;
use super::Code;
use crate::cache::{CodeCache, lock};
use crate::error::Error;
use crate::store::Store;

/// What to do where a launch needs what an earlier one would have made.
const WARM: &str = "launch once with the same arguments before capturing";
/// What to do where memory of the host is involved.
const APART: &str = "do it before or after, and launch over tensors on the GPU";

/// The oldest compute capability that kernels are made for: Turing.
const OLDEST: u32 = 75;

/// How to set up a [`Cuda`].
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// Which GPU; the first one where not given.
    pub ordinal: u32,
    /// Where tuned schedules and compiled code are remembered; the user's cache folder where not given.
    pub store: Option<Store>,
}

/// A GPU and a stream on it. Cheap to clone; clones share the stream, its memory and compiled code.
///
/// Launches and copies are queued on the stream in the order in which they are made, from whatever thread, and run in
/// that order. A launch over tensors on the GPU returns before it has run; [`Cuda::synchronize`] waits.
#[derive(Clone)]
pub struct Cuda {
    gpu: Arc<Gpu>,
    queue: Arc<Queue>,
}

/// What the streams of a GPU share.
struct Gpu {
    ordinal: u32,
    driver: (u32, u32),
    target: Target,
    capability: u32,
    context: Context,
    code: CodeCache<Code>,
    store: Store,
    /// What graphs that are alive or being recorded use.
    graphs: Mutex<Vec<Weak<Held>>>,
}

/// A stream, and the memory that launches on it need beside the caller's.
struct Queue {
    stream: Stream,
    /// One launch at a time puts its work on the stream: launches share the pool in stream order.
    state: Mutex<Pool>,
    /// What the launches of the graph that is being recorded use.
    recording: Mutex<Option<Recorded>>,
    /// Dropped last.
    gpu: Arc<Gpu>,
}

/// A graph that is being recorded: by whom, and what it uses.
struct Recorded {
    thread: ThreadId,
    held: Arc<Held>,
}

/// A stream, ended when it is dropped if it is ours.
struct Stream {
    raw: CUstream,
    owned: bool,
}

// SAFETY: streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver orders the calls.
unsafe impl Sync for Stream {}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.stream.owned
            && let Ok(_entered) = self.gpu.context.enter()
        {
            // SAFETY: made by `Cuda::with_options`, destroyed once; work on it goes on to its end.
            let _ = unsafe { cu!(cuStreamDestroy_v2(self.stream.raw)) };
        }
    }
}

impl Queue {
    /// Whether work on the stream is being recorded in a graph, by whomever.
    fn is_capturing(&self) -> Result<bool, Error> {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let _entered = self.gpu.context.enter()?;
        // SAFETY: the stream is alive, and one enum is written.
        unsafe { cu!(cuStreamIsCapturing(self.stream.raw, &raw mut status)) }?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }
}

impl Gpu {
    fn new(options: CudaOptions) -> Result<Arc<Gpu>, Error> {
        let driver = driver::init()?;
        let device = driver::device(options.ordinal)?;
        let (target, capability) = target(device, driver)?;
        if capability < OLDEST {
            return Err(Error::OldGpu {
                name: driver::name(device)?,
                found: capability,
                wanted: OLDEST,
            });
        }
        Ok(Arc::new(Gpu {
            ordinal: options.ordinal,
            driver,
            target,
            capability,
            context: Context::retain(device)?,
            code: CodeCache::default(),
            store: options.store.unwrap_or_else(Store::user),
            graphs: Mutex::default(),
        }))
    }
}

impl Gpu {
    /// The graph that uses memory at these addresses, if one does.
    fn graph_with(&self, addresses: &std::ops::Range<u64>) -> Option<Arc<Held>> {
        let mut graphs = lock(&self.graphs);
        graphs.retain(|held| held.strong_count() > 0);
        let alive: Vec<Arc<Held>> = graphs.iter().filter_map(Weak::upgrade).collect();
        // One of them may be the last to go, and then frees memory, which asks again.
        drop(graphs);
        alive.into_iter().find(|held| held.uses(addresses))
    }
}

/// What plans need to know of a GPU, and its compute capability times 10.
fn target(device: CUdevice, driver: (u32, u32)) -> Result<(Target, u32), Error> {
    use CUdevice_attribute as A;
    let get = |which| driver::attribute(device, which);
    let capability = 10 * get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
        + get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = get(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let l2 = u64::from(get(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?);
    // kHz, bits; two transfers a clock.
    let clock = u64::from(get(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?);
    let width = u64::from(get(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?);
    let name = driver::name(device)?;
    let target = Target {
        // A driver may schedule and clock otherwise: what was tuned belongs to both.
        name: format!("{name} sm_{capability}, driver {}.{}", driver.0, driver.1),
        vector_bytes: 4,
        fma: true,
        cores: multiprocessors,
        l1: u64::from(get(
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        )?),
        l2,
        l3: l2,
        gpu: Some(Features {
            capability,
            multiprocessors,
            shared_per_block: get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            registers: get(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
            threads: get(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            clock_khz: get(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            bandwidth: 2 * clock * 1000 * width / 8,
            stack: Features::STACK,
        }),
    };
    Ok((target, capability))
}

impl Cuda {
    /// The GPU of an ordinal, with a stream of its own.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::OldDriver`], [`Error::NoGpu`], [`Error::OldGpu`].
    pub fn new(ordinal: u32) -> Result<Cuda, Error> {
        Cuda::with_options(CudaOptions {
            ordinal,
            ..CudaOptions::default()
        })
    }

    /// Everything chosen.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn with_options(options: CudaOptions) -> Result<Cuda, Error> {
        let gpu = Gpu::new(options)?;
        let mut raw = std::ptr::null_mut();
        let entered = gpu.context.enter()?;
        // Not CU_STREAM_NON_BLOCKING: work of a library on the default stream stays in order with ours.
        // SAFETY: it writes one pointer.
        unsafe { cu!(cuStreamCreate(&raw mut raw, 0)) }?;
        drop(entered);
        Ok(Cuda::of(gpu, Stream { raw, owned: true }))
    }

    /// The GPU of an ordinal, with a stream of the caller's: a `CUstream` or `cudaStream_t` as an address (PyTorch's
    /// `torch.cuda.current_stream().cuda_stream`, cudarc's `CudaStream::cu_stream()`); 0 is the default stream.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    ///
    /// # Safety
    /// The stream belongs to the GPU's primary context and lives as long as every clone of what is returned.
    pub unsafe fn with_stream(ordinal: u32, stream: u64) -> Result<Cuda, Error> {
        let gpu = Gpu::new(CudaOptions {
            ordinal,
            ..CudaOptions::default()
        })?;
        // SAFETY: the caller's promise.
        Ok(unsafe { Cuda::on(gpu, stream) })
    }

    /// The same GPU and compiled code with another stream; see [`Cuda::with_stream`].
    ///
    /// # Safety
    /// As [`Cuda::with_stream`].
    #[must_use]
    pub unsafe fn on_stream(&self, stream: u64) -> Cuda {
        // SAFETY: the caller's promise.
        unsafe { Cuda::on(self.gpu.clone(), stream) }
    }

    /// # Safety
    /// As [`Cuda::with_stream`].
    unsafe fn on(gpu: Arc<Gpu>, stream: u64) -> Cuda {
        let raw = std::ptr::with_exposed_provenance_mut::<std::ffi::c_void>(stream as usize).cast();
        Cuda::of(gpu, Stream { raw, owned: false })
    }

    fn of(gpu: Arc<Gpu>, stream: Stream) -> Cuda {
        let queue = Queue {
            stream,
            state: Mutex::default(),
            recording: Mutex::default(),
            gpu: gpu.clone(),
        };
        Cuda {
            gpu,
            queue: Arc::new(queue),
        }
    }

    /// Which GPU it is.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.gpu.ordinal
    }
    /// What plans need to know of it.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.gpu.target
    }
    /// Where tuned schedules and compiled code are remembered.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.gpu.store
    }
    /// The driver's version: the newest CUDA that it runs.
    #[must_use]
    pub fn driver_version(&self) -> (u32, u32) {
        self.gpu.driver
    }
    /// The stream, a `CUstream`: for other libraries to queue work between launches.
    #[must_use]
    pub fn stream_ptr(&self) -> u64 {
        self.queue.stream.raw.expose_provenance() as u64
    }

    /// Waits until all work on the stream is done.
    ///
    /// # Errors
    /// What went wrong with any of it; on a GPU that is only found out afterwards.
    pub fn synchronize(&self) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: the stream is alive.
        unsafe { cu!(cuStreamSynchronize(self.stream())) }
    }

    /// Whether both are streams of one handle, and share compiled code.
    pub(crate) fn is_same_gpu(&self, other: &Cuda) -> bool {
        Arc::ptr_eq(&self.gpu, &other.gpu)
    }
    /// The GPU of an ordinal, if it runs kernels and NVRTC is there to compile them.
    pub(super) fn usable(ordinal: u32) -> Result<Cuda, Error> {
        let cuda = Cuda::new(ordinal)?;
        library::nvrtc()?;
        Ok(cuda)
    }
    pub(super) fn code(&self) -> &CodeCache<Code> {
        &self.gpu.code
    }
    fn enter(&self) -> Result<Entered, Error> {
        self.gpu.context.enter()
    }
    fn stream(&self) -> CUstream {
        self.queue.stream.raw
    }
    /// The memory of launches; nobody else puts a launch on the stream while it is held.
    fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.queue.state)
    }
    /// Refuses what the thread that records a graph can't do meanwhile; what another one records does not meet it.
    pub(super) fn not_while_recording(
        &self,
        what: &str,
        remedy: &'static str,
    ) -> Result<(), Error> {
        // Held, so that no other thread begins or ends a graph between the two questions.
        let recording = lock(&self.queue.recording);
        let by_another = |r: &Recorded| r.thread != thread::current().id();
        if recording.as_ref().is_some_and(by_another) {
            return Ok(());
        }
        self.not_while_capturing(what, remedy)
    }
    /// Refuses what can't be recorded in a graph.
    pub(super) fn not_while_capturing(
        &self,
        what: &str,
        remedy: &'static str,
    ) -> Result<(), Error> {
        if !self.queue.is_capturing()? {
            return Ok(());
        }
        Err(Error::Capturing {
            what: what.to_owned(),
            remedy,
        })
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cuda(cuda:{} {})", self.ordinal(), self.target().name)
    }
}
