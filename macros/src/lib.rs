//! `#[ssm_kernel]`: a recurrence as a function becomes a type that compiles and launches it.
//!
//! In: an attribute's arguments and a function in the syntax of `selscan_dsl`, checked by the same code as at run
//! time. Out: the kernel's type and the structs of its arguments, or `compile_error!` at the tokens of each mistake.
#![forbid(unsafe_code)]

mod expand;
mod interface;

use proc_macro::TokenStream;

/// Makes a kernel of a function that says a recurrence at time t.
///
/// Of `fn selective_scan(…)` it makes, with the function's visibility and documentation:
///
/// * `SelectiveScan`, the kernel on a device: `SelectiveScan::compile(&cpu)`, `launch(args)`, `step(args, states)` for
///   one token of decoding, `recurrence()`, `TEXT`, and `kernel()` for all that a `selscan::Kernel` can do.
/// * `SelectiveScanArgs`, the arguments that a call must have, by name: the inputs and, as `out`, the memory of the
///   output (`out0`, `out1`, … of several). Forgetting one does not compile.
/// * `SelectiveScanOptions`, in its field `options`: those that it may have. Optional inputs and flags, and what every
///   kernel has without saying so: `initial_h` and `last_h` of every state `h`, and `boundaries` of packed sequences.
///   It has a `Default`: nothing is given.
/// * `SelectiveScanStates`, the states that `step` updates in place.
///
/// The arguments are `time = T` (the name of the time axis, `L` where absent), `reverse`, `bidirectional` and
/// aliases of axes, `N2 = N`.
#[proc_macro_attribute]
pub fn ssm_kernel(attr: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(attr.into(), item.into()).into()
}
