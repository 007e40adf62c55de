//! What a machine has, as far as decisions depend on it: in from the runtime's device, out to [`crate::Plan`].

use crate::dtype::Ty;

/// A machine.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Its name: part of the key under which tuned schedules are remembered.
    pub name: String,
    /// Bytes of one vector register (16 where Cranelift emits the code, whatever the machine's widest).
    pub vector_bytes: u32,
    /// Whether a·b + c is one instruction.
    pub fma: bool,
    /// Threads that run at once.
    pub cores: u32,
    /// Level-1 data cache of a core, bytes.
    pub l1: u64,
    /// Level-2 cache of a core, bytes.
    pub l2: u64,
    /// Last-level cache, bytes.
    pub l3: u64,
    /// What a GPU has; `None` on a CPU.
    pub gpu: Option<Gpu>,
}

/// A GPU, as the driver describes it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Gpu {
    /// Compute capability × 10: 90 for sm_90.
    pub capability: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may ask for, bytes.
    pub shared_per_block: u32,
    /// Registers of a multiprocessor, 32 bits each.
    pub registers: u32,
    /// Threads that a multiprocessor holds.
    pub threads: u32,
    /// Clock of the multiprocessors, kHz.
    pub clock_khz: u32,
    /// Memory bandwidth, bytes per second.
    pub bandwidth: u64,
    /// Bytes that a thread may keep in memory of its own: [`Gpu::STACK`], but in tests.
    pub stack: u64,
}

impl Gpu {
    /// Bytes that a thread may keep in memory of its own, which the driver sets aside for every thread that the GPU can
    /// hold: with 270 000 threads, 1.1 GB.
    pub const STACK: u64 = 4 << 10;
}

impl Target {
    /// A machine with 128-bit vectors, FMA and common cache sizes: for tests and for text that must not depend on
    /// the machine at hand.
    #[must_use]
    pub fn generic() -> Self {
        Target {
            name: "generic-128".into(),
            vector_bytes: 16,
            fma: true,
            cores: 1,
            l1: 32 << 10,
            l2: 1 << 20,
            l3: 16 << 20,
            gpu: None,
        }
    }
    /// An H200 (SXM): 132 multiprocessors at 1.98 GHz, 4.8 TB/s; for tests and for text that must not depend on the
    /// machine at hand.
    #[must_use]
    pub fn h200() -> Self {
        Target {
            name: "NVIDIA H200".into(),
            vector_bytes: 4,
            fma: true,
            cores: 132,
            l1: 256 << 10,
            l2: 60 << 20,
            l3: 60 << 20,
            gpu: Some(Gpu {
                capability: 90,
                multiprocessors: 132,
                shared_per_block: 227 << 10,
                registers: 65536,
                threads: 2048,
                clock_khz: 1_980_000,
                bandwidth: 4_800_000_000_000,
                stack: Gpu::STACK,
            }),
        }
    }
    /// Elements of type `ty` in one vector register; 1 on a GPU, whose vectors are its threads.
    #[must_use]
    pub fn lanes(&self, ty: Ty) -> u32 {
        if self.gpu.is_some() {
            return 1;
        }
        self.vector_bytes / if ty == Ty::F64 { 8 } else { 4 }
    }
}
