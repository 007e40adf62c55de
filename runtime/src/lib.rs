//! State-space recurrences in memory and time.
//!
//! In: a [`selscan_dsl::Recurrence`] and tensors. Out: a [`Kernel`] that was compiled for the [`Cpu`] at hand, its
//! outputs and last states in the caller's memory, and the fastest schedule as the [`Tuner`] measured it.
#![deny(unsafe_op_in_unsafe_fn)]

mod args;
mod buffer;
mod cache;
mod call;
pub mod device;
mod error;
mod kernel;
mod owned;
mod run;
mod spec;
mod store;
mod tuner;

pub use args::Args;
pub use buffer::{Element, Tensor, TensorMut, TensorRef};
pub use device::{Cpu, CpuOptions, CpuProgram, Feature};
pub use error::Error;
pub use kernel::{Compiled, CompiledStage, Kernel};
pub use owned::{OwnedArgs, OwnedResults};
pub use selscan_codegen::{Dtype, Schedule, Target};
pub use spec::Spec;
pub use store::{FOLDER_VARIABLE, Key, Record, Store};
pub use tuner::{Progress, TOLERANCE, Trial, Tuned, Tuner};
