//! Devices: where kernels run. The only folder of the workspace with `unsafe` in it.

mod bindings;
pub mod cpu;
mod host;
pub(crate) mod memory;
mod program;

pub use bindings::Bindings;
pub use cpu::{Cpu, CpuOptions};
pub use host::Feature;
pub use program::CpuProgram;
