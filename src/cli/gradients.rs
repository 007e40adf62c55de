//! Gradients of a trial of `selscan selftest`.
//!
//! In: a kernel and arguments. Out: random cotangents of all that it computes, the gradients by all that it is given, whether
//! they are those of the f64 meaning.

use selscan_codegen::Dtype;
use selscan_dsl::{Inputs, Recurrence, gradients_with_bound};
use selscan_runtime::{Error, Kernel, OwnedArgs, OwnedResults, Tensor};

/// A loss that depends on every output and last state.
pub fn cotangents(kernel: &Kernel, args: &OwnedArgs) -> Result<OwnedResults, Error> {
    let mut all = kernel.results(args)?;
    let mut state = 20_240_601_u64;
    for tensor in all.outputs.values_mut().chain(all.last.values_mut()) {
        let data: Vec<f64> = (0..tensor.len())
            .map(|_| {
                // Knuth's MMIX generator; its high bits, in [-1, 1).
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
            })
            .collect();
        *tensor = Tensor::from_f64(tensor.dtype(), tensor.shape(), &data)?;
    }
    Ok(all)
}

/// Every input that is given, every state.
pub fn all(r: &Recurrence, args: &OwnedArgs) -> Vec<String> {
    let states = r.states.iter().map(|s| s.name.clone());
    args.inputs.keys().cloned().chain(states).collect()
}

fn names(by: &[String]) -> Vec<&str> {
    by.iter().map(String::as_str).collect()
}

/// The gradients in f64, and their bounds.
pub fn meaning(
    r: &Recurrence,
    args: &OwnedArgs,
    cotangents: &OwnedResults,
    by: &[String],
) -> Result<(Inputs, Inputs), Error> {
    let (inputs, cotangents) = (args.to_inputs(r), cotangents.to_outputs(r));
    Ok(gradients_with_bound(r, &inputs, &cotangents, &names(by))?)
}

/// The gradients, if a second run gives the same bits; else an error that says where.
pub fn twice(
    kernel: &Kernel,
    args: &OwnedArgs,
    cotangents: &OwnedResults,
    by: &[String],
) -> Result<OwnedArgs, Error> {
    let (_, first) = kernel.run_gradients(args, cotangents, &names(by))?;
    let (_, again) = kernel.run_gradients(args, cotangents, &names(by))?;
    let sides = [
        (&first.inputs, &again.inputs),
        (&first.initial, &again.initial),
    ];
    for (a, b) in sides {
        for (name, a) in a {
            let bits = |t: &Tensor| t.to_f64().into_iter().map(f64::to_bits).collect::<Vec<_>>();
            if b.get(name).is_none_or(|b| bits(a) != bits(b)) {
                return Err(Error::Gradient {
                    kernel: kernel.recurrence().name.clone(),
                    why: format!("a second run gives other bits for that by `{name}`"),
                });
            }
        }
    }
    Ok(first)
}

/// How many numbers were compared and the greatest error in units of eps·m, or which is wrong.
pub fn check(
    r: &Recurrence,
    found: &OwnedArgs,
    meaning: &(Inputs, Inputs),
    dtype: Dtype,
) -> Result<(usize, f64), String> {
    let compute = if dtype == Dtype::F64 {
        dtype
    } else {
        Dtype::F32
    };
    let worst = found.check_gradients(r, compute, meaning)?;
    let all = found.inputs.values().chain(found.initial.values());
    Ok((all.map(Tensor::len).sum(), worst))
}
