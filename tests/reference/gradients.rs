//! Gradients of the reference: the file's cotangents through a model's adjoint, against the file's gradients; by the meaning
//! in f64, or by compiled kernels.
//!
//! An input that a row passes on as it is has its gradient compared element by element. Where the row's preparation
//! makes other tensors of an input, the derivative along random directions is compared: of the file, d_x · v; of the
//! model, its gradient times the change of what is prepared, by the five-point rule (exact for the sums, cuts and
//! products that preparations are).

use selscan_dsl::{Array, Inputs, Outputs, Recurrence, gradients};
use selscan_runtime::{Device, Dtype, OwnedArgs, OwnedResults, Tensor};

use super::{Case, Golden, Row, error};

/// Random directions for every input that is prepared.
const DIRECTIONS: u64 = 4;
/// The step of the five-point rule.
const STEP: f64 = 1e-3;

/// What computes gradients.
pub enum By {
    /// Their meaning.
    Meaning,
    /// Kernels over tensors of a type, whose backward runs make so many steps again at once.
    Kernels {
        device: Device,
        dtype: Dtype,
        steps: u32,
    },
}

impl By {
    /// The gradients by what `wrt` names.
    pub fn gradients(
        &self,
        r: &Recurrence,
        inputs: &Inputs,
        cotangents: &Outputs,
        wrt: &[&str],
    ) -> Result<Inputs, String> {
        let By::Kernels {
            device,
            dtype,
            steps,
        } = self
        else {
            return gradients(r, inputs, cotangents, wrt).map_err(|e| e.to_string());
        };
        let kernel = device.kernel(r.clone()).with_checkpoint_steps(*steps);
        let tensors = |arrays: &std::collections::BTreeMap<String, Array>| {
            let tensor = |x: &Array| {
                let pair = x.complex.then_some(2);
                let shape: Vec<usize> = x.shape.iter().copied().chain(pair).collect();
                Tensor::from_f64(*dtype, &shape, &x.data).unwrap()
            };
            arrays.iter().map(|(n, x)| (n.clone(), tensor(x))).collect()
        };
        let cotangents = OwnedResults {
            outputs: tensors(&cotangents.tensors),
            last: tensors(&cotangents.last),
        };
        let args = OwnedArgs::from_inputs(inputs, *dtype).unwrap();
        let found = kernel.run_gradients(&args, &cotangents, wrt);
        let (_, found) = found.map_err(|e| e.to_string())?;
        Ok(found.to_inputs(r))
    }

    /// The error that the gradient of a file by `name` may have: that of f64, or the file's own for f32.
    pub fn tolerance(&self, golden: &Golden, name: &str) -> f64 {
        match self {
            By::Kernels { dtype, .. } if *dtype != Dtype::F64 => golden.tols[&format!("d_{name}")],
            _ => 1e-10,
        }
    }
}

impl Row {
    /// The gradients of the loss of the file by everything that the model is given.
    fn gradients(&self, case: &Case, by: &By) -> Inputs {
        let r = &case.recurrence;
        let mut cotangents = Outputs::default();
        for (name, d) in &case.golden.cotangents {
            let name = self.renamed(name);
            if let Some(output) = r.outputs.iter().find(|o| o.name == name) {
                let d = d.over(r, &output.axes, self.axes);
                cotangents.tensors.insert(name, d);
            } else {
                let state = r.state_named(&name);
                let state = r.state(state.unwrap_or_else(|| panic!("no {name}")));
                let d = d.over(r, &state.axes, self.axes);
                cotangents.last.insert(name, d);
            }
        }
        (self.unfinish)(&case.golden, &mut cotangents);
        let given = case.inputs.tensors.keys().chain(case.inputs.initial.keys());
        let names: Vec<&str> = given.map(String::as_str).collect();
        let found = by.gradients(r, &case.inputs, &cotangents, &names);
        found.unwrap_or_else(|e| panic!("{} by {}: {e}", case.golden.name, self.model))
    }

    /// The errors of the gradients of the file by name, relative to the gradient's largest value or its norm.
    pub fn gradient_errors(&self, golden: &Golden, by: &By) -> Vec<(String, f64)> {
        let case = self.case_of(golden.clone());
        let found = self.gradients(&case, by);
        let mut errors = Vec::new();
        for (name, d) in &golden.gradients {
            if self.before.contains(&name.as_str()) {
                continue;
            }
            let untouched = case.golden.inputs.get(name) == golden.inputs.get(name);
            let own = self.renamed(name);
            let ours = found.tensors.get(&own).or(found.initial.get(&own));
            let error = match ours {
                Some(ours) if untouched => {
                    let r = &case.recurrence;
                    let axes = match r.input_named(&own) {
                        Some(id) => &r.input(id).axes,
                        None => &r.state(r.state_named(&own).unwrap()).axes,
                    };
                    error(ours, &d.over(r, axes, self.axes))
                }
                _ => (0..DIRECTIONS)
                    .map(|seed| self.along(golden, name, &d.array, &found, seed))
                    .fold(0.0, f64::max),
            };
            errors.push((name.clone(), error));
        }
        errors
    }

    /// The error of the derivative along a random direction of an input that is prepared.
    fn along(&self, golden: &Golden, name: &str, d: &Array, found: &Inputs, seed: u64) -> f64 {
        let v = direction(d.data.len(), seed);
        let at = |step: f64| {
            let mut moved = golden.clone();
            let x = &mut moved.inputs.get_mut(name).unwrap().array.data;
            assert_eq!(x.len(), v.len());
            x.iter_mut()
                .zip(&v)
                .for_each(|(x, v)| *x += step * STEP * v);
            let inputs = self.case_of(moved).inputs;
            let tensors = found
                .tensors
                .iter()
                .map(|(n, d)| dot(d, &inputs.tensors[n]));
            let states = found
                .initial
                .iter()
                .map(|(n, d)| dot(d, &inputs.initial[n]));
            tensors.chain(states).sum::<f64>()
        };
        let ours = (at(-2.0) - at(2.0) + 8.0 * (at(1.0) - at(-1.0))) / (12.0 * STEP);
        let wanted: f64 = d.data.iter().zip(&v).map(|(d, v)| d * v).sum();
        (ours - wanted).abs() / dot(d, d).sqrt()
    }
}

fn dot(x: &Array, y: &Array) -> f64 {
    assert_eq!((&x.shape, x.complex), (&y.shape, y.complex));
    x.data.iter().zip(&y.data).map(|(x, y)| x * y).sum()
}

/// A vector of length 1.
fn direction(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut number = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let v: Vec<f64> = (0..len).map(|_| number()).collect();
    let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
    v.iter().map(|x| x / norm).collect()
}
