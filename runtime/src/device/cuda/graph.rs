//! Launches recorded once and queued again at once: a CUDA graph.
//!
//! In: launches over tensors on the GPU. Out: [`Graph`]. It keeps what its launches use: code, the stream's memory, and
//! tensors of ours that are dropped while it lives.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread;

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::driver::cu;
use super::memory::DeviceMemory;
use super::program::Module;
use super::{Cuda, Recorded};
use crate::cache::lock;
use crate::error::Error;

/// What the launches of a graph use.
#[derive(Default)]
pub(super) struct Held {
    modules: Mutex<Vec<Arc<Module>>>,
    ranges: Mutex<Vec<Range<u64>>>,
    /// Memory whose owner is gone.
    memory: Mutex<Vec<DeviceMemory>>,
}

impl Held {
    /// Whether some of these addresses are used.
    pub(super) fn uses(&self, addresses: &Range<u64>) -> bool {
        let overlap = |r: &Range<u64>| r.start < addresses.end && addresses.start < r.end;
        lock(&self.ranges).iter().any(overlap)
    }
    /// Frees memory no sooner than the graph.
    pub(super) fn keep(&self, memory: DeviceMemory) {
        lock(&self.memory).push(memory);
    }
    pub(super) fn add_range(&self, addresses: Range<u64>) {
        if !addresses.is_empty() {
            lock(&self.ranges).push(addresses);
        }
    }
    pub(super) fn add_module(&self, module: &Arc<Module>) {
        let mut modules = lock(&self.modules);
        if !modules.iter().any(|m| Arc::ptr_eq(m, module)) {
            modules.push(module.clone());
        }
    }
}

/// Launches that were recorded by [`Cuda::capture`].
pub struct Graph {
    cuda: Cuda,
    exec: CUgraphExec,
    _held: Arc<Held>,
}

// SAFETY: graphs may be launched from any thread, one at a time; `launch` holds the stream's lock.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_entered) = self.cuda.enter() {
            // What is queued of it has to be done before what it holds may go.
            let _ = self.cuda.synchronize();
            // SAFETY: made by `capture`, destroyed once.
            let _ = unsafe { cu!(cuGraphExecDestroy(self.exec)) };
        }
    }
}

/// Ends a recording, also where what is recorded panics.
struct Recording<'c> {
    cuda: &'c Cuda,
    ended: bool,
}

impl Recording<'_> {
    fn end(&mut self) -> Result<CUgraph, Error> {
        self.ended = true;
        let mut recording = lock(&self.cuda.queue.recording);
        *recording = None;
        let _entered = self.cuda.enter()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is being captured, and one pointer is written.
        unsafe { cu!(cuStreamEndCapture(self.cuda.stream(), &raw mut graph)) }?;
        Ok(graph)
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(graph) = self.end()
        {
            destroy(self.cuda, graph);
        }
    }
}

fn destroy(cuda: &Cuda, graph: CUgraph) {
    if !graph.is_null()
        && let Ok(_entered) = cuda.enter()
    {
        // SAFETY: made by the end of a capture, destroyed once.
        let _ = unsafe { cu!(cuGraphDestroy(graph)) };
    }
}

impl Cuda {
    /// Records what `launches` queues on this stream, in place of running it. Launches must be over tensors on the GPU, and
    /// like earlier ones: nothing can be compiled or allocated meanwhile. Launches by other threads on the same stream
    /// are recorded too. Other libraries must not use the default stream meanwhile: it waits for this one.
    ///
    /// # Errors
    /// What `launches` gives; [`Error::Capturing`]; [`Error::Cuda`], on the default stream, for example, which can't be
    /// recorded.
    pub fn capture(&self, launches: impl FnOnce() -> Result<(), Error>) -> Result<Graph, Error> {
        self.not_while_capturing("another one was begun", "end that one first")?;
        let held = Arc::new(Held::default());
        lock(&self.gpu.graphs).push(Arc::downgrade(&held));
        let mut recorded = lock(&self.queue.recording);
        let entered = self.enter()?;
        // Other threads, and frees by this one, go on meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        unsafe { cu!(cuStreamBeginCapture_v2(self.stream(), mode)) }?;
        drop(entered);
        *recorded = Some(Recorded {
            thread: thread::current().id(),
            held: held.clone(),
        });
        drop(recorded);
        let mut recording = Recording {
            cuda: self,
            ended: false,
        };
        launches()?;
        let graph = recording.end()?;
        let entered = self.enter()?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: the graph is whole, and one pointer is written.
        let made = unsafe { cu!(cuGraphInstantiateWithFlags(&raw mut exec, graph, 0)) };
        drop(entered);
        destroy(self, graph);
        made?;
        Ok(Graph {
            cuda: self.clone(),
            exec,
            _held: held,
        })
    }

    /// Notes what a launch uses, if it is being recorded.
    pub(super) fn record(&self, note: impl FnOnce(&Held)) {
        if let Some(recorded) = &*lock(&self.queue.recording) {
            note(&recorded.held);
        }
    }
}

impl Graph {
    /// Queues the recorded launches on the stream that they were recorded on.
    ///
    /// The memory at device pointers of other libraries that were recorded has to be there; tensors of ours are.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn launch(&self) -> Result<(), Error> {
        let _entered = self.cuda.enter()?;
        // No launch has work on the stream before and after it that shares the stream's memory with it.
        let _alone = self.cuda.pool();
        // SAFETY: what the graph uses is held, or promised by whoever passed its address.
        unsafe { cu!(cuGraphLaunch(self.exec, self.cuda.stream())) }
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph(on cuda:{})", self.cuda.ordinal())
    }
}
