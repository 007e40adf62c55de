//! State-space recurrences in memory and time.
//!
//! In: a [`selscan_dsl::Recurrence`] and tensors. Out: a [`Kernel`] that was compiled for the [`Cpu`] at hand, its
//! outputs and last states in the caller's memory, and the fastest schedule as the [`Tuner`] measured it.
//!
//! ```
//! use selscan_dsl::Recurrence;
//! use selscan_runtime::{Args, Cpu, Dtype, Tensor, TensorRef};
//!
//! let text = "#[ssm_kernel] fn decay(x: Tensor<L, D>, a: Tensor<D>, h: State<D>) -> Tensor<L, D> { h = a * h + x; h }";
//! let kernel = Cpu::new()?.kernel(Recurrence::parse(text)?);
//! let mut y = Tensor::zeros(Dtype::F32, &[3, 2])?;
//! kernel.launch(
//!     Args::new()
//!         .input("x", TensorRef::new(&[1f32; 6], &[3, 2])?)
//!         .input("a", TensorRef::new(&[0.5f32, 2.0], &[2])?)
//!         .output("out", &mut y),
//! )?;
//! assert_eq!(y.to_f64(), [1.0, 1.0, 1.5, 3.0, 1.75, 7.0]);
//! # Ok::<(), selscan_runtime::Error>(())
//! ```
#![deny(unsafe_op_in_unsafe_fn)]

mod args;
mod buffer;
mod cache;
mod call;
mod checkpoints;
pub mod device;
mod error;
mod gradient;
mod kernel;
mod owned;
mod place;
mod resident;
mod run;
mod sample;
mod spec;
mod store;
mod tolerance;
mod tuner;
mod wanted;

pub use args::Args;
pub use buffer::{Element, Tensor, TensorMut, TensorRef};
pub use checkpoints::Checkpoints;
pub use device::cuda::nvrtc;
pub use device::{
    Code, Cpu, CpuOptions, CpuProgram, Cuda, CudaOptions, CudaProgram, Device, DeviceName,
    DeviceTensor, Event, Feature, Graph,
};
pub use error::Error;
pub use gradient::Gradients;
pub use kernel::{Compiled, CompiledStage, Kernel};
pub use owned::{OwnedArgs, OwnedResults};
pub use resident::Resident;
pub use sample::Sample;
pub use selscan_codegen::{Dtype, Schedule, Target};
pub use spec::Spec;
pub use store::{FOLDER_VARIABLE, Key, Record, Store};
pub use tolerance::TOLERANCE;
pub use tuner::{Progress, Trial, Tuned, Tuner, Untimed};
