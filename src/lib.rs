//! Write a state-space recurrence once, as math; get a fused, tuned kernel.
//!
//! In: a recurrence at time t, as a function under [`macro@ssm_kernel`] or as text for [`Recurrence::parse`]. Out: a
//! kernel on a [`Device`] (the CPU or a GPU), compiled for the arguments that it is launched with, and its meaning in f64, [`eval()`].
//!
//! ```
//! use selscan::prelude::*;
//!
//! /// A gated running sum: h(t) = decay·h(t−1) + u(t), y(t) = h(t)·silu(z(t)).
//! #[ssm_kernel]
//! fn running_sum(u: Tensor<B, L, D>, decay: Tensor<D>, z: Option<Tensor<B, L, D>>, h: State<B, D>) -> Tensor<B, L, D> {
//!     h = decay * h + u;
//!     given(z, h * silu(z), h)
//! }
//!
//! fn main() -> Result<(), Error> {
//!     let (u, decay) = ([1.0, 0.0, 0.0, 2.0], [0.5]);
//!     let mut y = Tensor::zeros(Dtype::F64, &[1, 4, 1])?;
//!     let sum = RunningSum::compile(&Cpu::new()?)?;
//!     sum.launch(RunningSumArgs {
//!         u: TensorRef::new(&u, &[1, 4, 1])?,
//!         decay: TensorRef::new(&decay, &[1])?,
//!         out: y.view_mut(),
//!         options: RunningSumOptions::default(),
//!     })?;
//!     assert_eq!(y.to_f64(), [1.0, 0.5, 0.25, 2.125]);
//!
//!     let inputs = Inputs::new()
//!         .with("u", Array::real(&[1, 4, 1], u.to_vec()))
//!         .with("decay", Array::real(&[1], decay.to_vec()));
//!     assert_eq!(y.to_f64(), eval(RunningSum::recurrence(), &inputs)?.tensors["out"].data);
//!     Ok(())
//! }
//! ```
//!
//! Every kernel takes initial states, gives last states and knows packed sequences, without a word in its text. These
//! and optional inputs are the fields of the `Options` struct: name what is needed and leave the rest out. What is left
//! out is not tested for at run time: each combination is a kernel of its own.
//!
//! ```
//! # use selscan::prelude::*;
//! # #[ssm_kernel]
//! # fn running_sum(u: Tensor<B, L, D>, decay: Tensor<D>, z: Option<Tensor<B, L, D>>, h: State<B, D>) -> Tensor<B, L, D> {
//! #     h = decay * h + u;
//! #     given(z, h * silu(z), h)
//! # }
//! # fn main() -> Result<(), Error> {
//! let sum = RunningSum::compile(&Cpu::new()?)?;
//! let u = Tensor::from_slice(&[1f32, 0.0, 0.0, 2.0], &[1, 4, 1])?;
//! let decay = Tensor::from_slice(&[0.5f32], &[1])?;
//! let mut y = Tensor::zeros(Dtype::F32, &[1, 4, 1])?;
//! let mut h = Tensor::zeros(Dtype::F32, &[1, 1])?;
//! sum.launch(RunningSumArgs {
//!     u: u.view(),
//!     decay: decay.view(),
//!     out: y.view_mut(),
//!     options: RunningSumOptions {
//!         boundaries: Some((&[0, 0, 1, 1], &[1, 4])), // two sequences of two steps in one row
//!         last_h: Some(h.view_mut()),
//!         ..Default::default()
//!     },
//! })?;
//! assert_eq!(y.to_f64(), [1.0, 0.5, 0.0, 2.0]);
//!
//! // One more step from there (decoding): the state is updated in place.
//! let next = Tensor::from_slice(&[3f32], &[1, 1, 1])?;
//! let mut y = Tensor::zeros(Dtype::F32, &[1, 1, 1])?;
//! let args = RunningSumArgs {
//!     u: next.view(),
//!     decay: decay.view(),
//!     out: y.view_mut(),
//!     options: RunningSumOptions::default(),
//! };
//! sum.step(args, RunningSumStates { h: h.view_mut() })?;
//! assert_eq!(y.to_f64(), [4.0]);
//! assert_eq!(h.to_f64(), [4.0]);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub use selscan_codegen as codegen;
pub use selscan_dsl as dsl;
pub use selscan_models as models;
pub use selscan_runtime as runtime;

pub use selscan_codegen::{Dtype, Schedule, Target};
pub use selscan_dsl::{
    Array, Diagnostic, EvalError, Inputs, Outputs, ParseError, Recurrence, eval, eval_with_bound,
};
pub use selscan_macros::ssm_kernel;
pub use selscan_runtime::{
    Args, Checkpoints, Cpu, CpuOptions, Cuda, CudaOptions, Device, DeviceTensor, Element, Error,
    Gradients, Kernel, OwnedArgs, OwnedResults, Spec, Tensor, TensorMut, TensorRef, Tuner,
};

/// What a program that writes and runs kernels uses: `use selscan::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Args, Array, Checkpoints, Cpu, Cuda, Device, DeviceTensor, Dtype, Error, Gradients, Inputs,
        Kernel, Outputs, OwnedArgs, ParseError, Recurrence, Schedule, Target, Tensor, TensorMut,
        TensorRef, Tuner, eval, eval_with_bound, ssm_kernel,
    };
}

/// What the code of [`macro@ssm_kernel`] calls; not for use by hand.
#[doc(hidden)]
pub mod __macro {
    use crate::Recurrence;

    /// The recurrence of a text that the macro has parsed before.
    #[must_use]
    pub fn recurrence(text: &str) -> Recurrence {
        match Recurrence::parse(text) {
            Ok(recurrence) => recurrence,
            Err(mistakes) => unreachable!("parsed when the kernel was compiled: {mistakes}"),
        }
    }
}
