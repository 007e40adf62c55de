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
        }
    }
    /// Elements of type `ty` in one vector register.
    #[must_use]
    pub fn lanes(&self, ty: Ty) -> u32 {
        self.vector_bytes / if ty == Ty::F64 { 8 } else { 4 }
    }
}
