//! The one tolerance: |y − y64| ≤ K·eps·m, m the running error bound of the f64 meaning y64, eps that of the type.
//!
//! In: results, the meaning and its bound ([`selscan_dsl::eval_with_bound`]). Out: what is wrong with them, if anything.

use selscan_codegen::Dtype;
use selscan_dsl::{Array, Inputs, Outputs, Recurrence};

use crate::buffer::Tensor;
use crate::owned::{OwnedArgs, OwnedResults};
use crate::sample::Sample;

/// K of the one tolerance.
pub const TOLERANCE: f64 = 32.0;

impl OwnedResults {
    /// Whether these are the numbers of the f64 meaning, of which and its bound `meaning` consists, for arithmetic in
    /// `compute`: every output, and the last states that are here.
    ///
    /// # Errors
    /// The first number that is wrong, in words.
    pub fn check(
        &self,
        r: &Recurrence,
        compute: Dtype,
        meaning: &(Outputs, Outputs),
    ) -> Result<(), String> {
        self.check_found(&self.to_outputs(r), compute, meaning)
    }

    /// The same of those among these that a sample has, of which `meaning` consists.
    ///
    /// # Errors
    /// The first number that is wrong, in words.
    pub fn check_sample(
        &self,
        r: &Recurrence,
        compute: Dtype,
        meaning: &(Outputs, Outputs),
        sample: &Sample,
    ) -> Result<(), String> {
        self.check_found(&sample.outputs(r, &self.to_outputs(r)), compute, meaning)
    }

    fn check_found(
        &self,
        found: &Outputs,
        compute: Dtype,
        (wanted, bound): &(Outputs, Outputs),
    ) -> Result<(), String> {
        let epsilon = |tensor: Option<&Tensor>| {
            tensor
                .map_or(compute, Tensor::dtype)
                .epsilon()
                .max(compute.epsilon())
        };
        for (name, wanted) in &wanted.tensors {
            let eps = epsilon(self.outputs.get(name));
            compare(
                name,
                wanted,
                bound.tensors.get(name),
                found.tensors.get(name),
                eps,
            )?;
        }
        for (name, found) in &found.last {
            let Some(wanted) = wanted.last.get(name) else {
                return Err(format!("`{name}` is no state"));
            };
            let eps = epsilon(self.last.get(name));
            compare(name, wanted, bound.last.get(name), Some(found), eps)?;
        }
        Ok(())
    }
}

impl OwnedArgs {
    /// Whether these are gradients of the f64 meaning, of which and its bound ([`selscan_dsl::gradients_with_bound`])
    /// `meaning` consists, for arithmetic in `compute`: all that are here. The greatest error, in units of eps·m.
    ///
    /// # Errors
    /// The first number that is wrong, in words.
    pub fn check_gradients(
        &self,
        r: &Recurrence,
        compute: Dtype,
        (wanted, bound): &(Inputs, Inputs),
    ) -> Result<f64, String> {
        let mut worst = 0.0;
        let found = self.to_inputs(r);
        let sides = [
            (
                &self.inputs,
                &found.tensors,
                &wanted.tensors,
                &bound.tensors,
            ),
            (
                &self.initial,
                &found.initial,
                &wanted.initial,
                &bound.initial,
            ),
        ];
        for (tensors, found, wanted, bound) in sides {
            for (name, tensor) in tensors {
                let Some(wanted) = wanted.get(name) else {
                    return Err(format!("there is no gradient by `{name}`"));
                };
                let eps = tensor.dtype().epsilon().max(compute.epsilon());
                let name_of = format!("d_{name}");
                let error = compare(&name_of, wanted, bound.get(name), found.get(name), eps)?;
                worst = error.max(worst);
            }
        }
        Ok(worst)
    }
}

/// |y − y64| ≤ K·eps·m for every element; infinities and NaN where the f64 meaning has them. The greatest |y − y64| / (eps·m).
fn compare(
    name: &str,
    wanted: &Array,
    bound: Option<&Array>,
    found: Option<&Array>,
    eps: f64,
) -> Result<f64, String> {
    let (Some(bound), Some(found)) = (bound, found) else {
        return Err(format!("`{name}` was not computed"));
    };
    let mut worst: f64 = 0.0;
    for (i, &y) in wanted.data.iter().enumerate() {
        let (x, m) = (found.data[i], bound.data[i]);
        let right =
            x == y || (x - y).abs() <= TOLERANCE * eps * m || !y.is_finite() || !m.is_finite();
        if x != y && y.is_finite() && m.is_finite() && m > 0.0 {
            worst = worst.max((x - y).abs() / (eps * m));
        }
        if !right {
            return Err(format!("wrong: `{name}`[{i}] is {x}, not {y}"));
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wrong_numbers_do_not_pass() {
        let eps = f64::from(f32::EPSILON);
        let wanted = Array::real(&[3], vec![1.0, f64::INFINITY, -2.0]);
        let bound = Array::real(&[3], vec![1.0, f64::INFINITY, 4.0]);
        let near = Array::real(&[3], vec![1.0 + 30.0 * eps, 7.0, -2.0 - 120.0 * eps]);
        compare("y", &wanted, Some(&bound), Some(&near), eps).unwrap();
        for (i, x) in [
            (0, 1.0 + 40.0 * eps),
            (2, -2.0 + 130.0 * eps),
            (2, f64::NAN),
        ] {
            let mut far = near.clone();
            far.data[i] = x;
            let why = compare("y", &wanted, Some(&bound), Some(&far), eps).unwrap_err();
            assert!(why.starts_with(&format!("wrong: `y`[{i}] is ")), "{why}");
        }
        assert!(compare("y", &wanted, Some(&bound), None, eps).is_err());
    }
}
