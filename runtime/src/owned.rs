//! Arguments and results that own their memory: for one-off runs, command lines, tests and the tuner.
//!
//! In: tensors by name, or f64 arrays ([`Inputs`]) to round. Out: every output and every last state.

use std::collections::{BTreeMap, BTreeSet};

use selscan_codegen::{Dtype, Ty};
use selscan_dsl::shape::bind_extents;
use selscan_dsl::{Array, Extents, Inputs, Outputs, Recurrence};

use crate::args::Args;
use crate::buffer::Tensor;
use crate::error::Error;
use crate::gradient::Gradients;
use crate::kernel::Kernel;
use crate::spec::{self, Spec};

/// What a run is given, by name.
#[derive(Debug, Default)]
pub struct OwnedArgs {
    /// Inputs; optional ones may be left out.
    pub inputs: BTreeMap<String, Tensor>,
    /// Flags that are given.
    pub flags: BTreeSet<String>,
    /// Initial states; the others start at 0.
    pub initial: BTreeMap<String, Tensor>,
    /// Packed sequences: an integer per row and step, and the shape [B, L].
    pub seq_idx: Option<(Vec<i32>, Vec<usize>)>,
    /// The type of the outputs; the widest of the inputs' where not given.
    pub output: Option<Dtype>,
}

/// What a run gives, by name.
#[derive(Debug, Default)]
pub struct OwnedResults {
    /// Every output.
    pub outputs: BTreeMap<String, Tensor>,
    /// Every state after the last step, in the type of its initial state, else in that of the arithmetic.
    pub last: BTreeMap<String, Tensor>,
}

/// A tensor of an array's numbers.
fn tensor(array: &Array, dtype: Dtype) -> Result<Tensor, Error> {
    let mut shape = array.shape.clone();
    shape.extend(array.complex.then_some(2));
    Tensor::from_f64(dtype, &shape, &array.data)
}

/// An array of a tensor's numbers.
fn array(tensor: &Tensor, complex: bool) -> Array {
    let data = tensor.to_f64();
    match tensor.shape().split_last() {
        Some((2, shape)) if complex => Array::complex(shape, data),
        _ => Array::real(tensor.shape(), data),
    }
}

impl OwnedArgs {
    /// The inputs of the f64 meaning, rounded to one type.
    ///
    /// # Errors
    /// If an array's data is not as long as its shape, or a sequence index is no i32.
    pub fn from_inputs(inputs: &Inputs, dtype: Dtype) -> Result<OwnedArgs, Error> {
        let tensors = |arrays: &BTreeMap<String, Array>| {
            let each = arrays.iter();
            each.map(|(name, x)| Ok((name.clone(), tensor(x, dtype)?)))
                .collect::<Result<_, Error>>()
        };
        let index = |x: f64| {
            let i = x as i32;
            (f64::from(i) == x)
                .then_some(i)
                .ok_or_else(|| Error::TooLarge {
                    what: format!("the sequence index {x}, not an i32,"),
                })
        };
        let seq_idx = inputs.seq_idx.as_ref().map(|x| {
            let data = x
                .data
                .iter()
                .map(|&x| index(x))
                .collect::<Result<_, Error>>()?;
            Ok::<_, Error>((data, x.shape.clone()))
        });
        Ok(OwnedArgs {
            inputs: tensors(&inputs.tensors)?,
            flags: inputs.flags.clone(),
            initial: tensors(&inputs.initial)?,
            seq_idx: seq_idx.transpose()?,
            output: Some(dtype),
        })
    }

    /// The inputs of the f64 meaning: the same numbers, exactly.
    #[must_use]
    pub fn to_inputs(&self, r: &Recurrence) -> Inputs {
        let complex_input = |name: &str| r.input_named(name).is_some_and(|i| r.input(i).complex);
        let complex_state = |name: &str| r.state_named(name).is_some_and(|s| r.state(s).complex);
        let arrays = |tensors: &BTreeMap<String, Tensor>, complex: &dyn Fn(&str) -> bool| {
            let each = tensors.iter();
            each.map(|(name, t)| (name.clone(), array(t, complex(name))))
                .collect()
        };
        Inputs {
            tensors: arrays(&self.inputs, &complex_input),
            flags: self.flags.clone(),
            initial: arrays(&self.initial, &complex_state),
            seq_idx: self.seq_idx.as_ref().map(|(data, shape)| {
                Array::real(shape, data.iter().map(|&i| f64::from(i)).collect())
            }),
        }
    }

    /// What a launch with these arguments needs of the code: all outputs and all last states.
    ///
    /// # Errors
    /// If the recurrence does not have a name.
    pub fn spec(&self, r: &Recurrence) -> Result<Spec, Error> {
        let mut spec = Spec::new(r, Dtype::F32);
        spec.inputs.fill(None);
        for (name, tensor) in &self.inputs {
            spec.inputs[spec::input(r, name)?] = Some(tensor.dtype());
        }
        for name in &self.flags {
            spec.inputs[spec::input(r, name)?] = Some(Dtype::F32);
        }
        let widest = self.inputs.values().map(Tensor::dtype);
        let widest = widest.max_by_key(|d| d.bytes()).unwrap_or(Dtype::F32);
        spec.outputs.fill(self.output.unwrap_or(widest));
        for (name, tensor) in &self.initial {
            spec.initial[spec::state(r, name, "initial state")?] = Some(tensor.dtype());
        }
        let compute = if spec.compute() == Ty::F64 {
            Dtype::F64
        } else {
            Dtype::F32
        };
        for (last, initial) in spec.last.iter_mut().zip(&spec.initial) {
            *last = Some(initial.unwrap_or(compute));
        }
        spec.boundaries = self.seq_idx.is_some();
        Ok(spec)
    }

    /// These arguments, and where their results are to be written.
    #[must_use]
    pub fn args<'a>(&'a self, results: &'a mut OwnedResults) -> Args<'a> {
        let mut args = Args::new();
        for (name, tensor) in &self.inputs {
            args = args.input(name, tensor);
        }
        for name in &self.flags {
            args = args.flag(name);
        }
        for (name, tensor) in &self.initial {
            args = args.initial(name, tensor);
        }
        if let Some((seq_idx, shape)) = &self.seq_idx {
            args = args.boundaries(seq_idx, shape);
        }
        for (name, tensor) in &mut results.outputs {
            args = args.output(name, tensor);
        }
        for (name, tensor) in &mut results.last {
            args = args.last(name, tensor);
        }
        args
    }
}

impl OwnedResults {
    /// The results as the f64 meaning gives them.
    #[must_use]
    pub fn to_outputs(&self, r: &Recurrence) -> Outputs {
        let output = |name: &String| r.outputs.iter().any(|o| o.name == *name && o.complex);
        let state = |name: &String| r.states.iter().any(|s| s.name == *name && s.complex);
        Outputs {
            tensors: self
                .outputs
                .iter()
                .map(|(n, t)| (n.clone(), array(t, output(n))))
                .collect(),
            last: self
                .last
                .iter()
                .map(|(n, t)| (n.clone(), array(t, state(n))))
                .collect(),
        }
    }

    /// Every element of every result set to `value`.
    pub fn fill(&mut self, value: f64) {
        self.outputs
            .values_mut()
            .chain(self.last.values_mut())
            .for_each(|t| t.fill(value));
    }
}

impl Kernel {
    /// The specialisation and the extents of a run.
    ///
    /// # Errors
    /// If names or shapes do not fit the kernel.
    pub fn resolve(&self, args: &OwnedArgs) -> Result<(Spec, Extents), Error> {
        let r = self.recurrence();
        let spec = args.spec(r)?;
        let prepared = self.prepared(&spec)?;
        let shape = |name: &str, t: &'_ Tensor, complex: bool| {
            let mut shape = t.shape().to_vec();
            // A missing pair is found, and said, by the launch.
            if complex && shape.last() == Some(&2) {
                shape.pop();
            }
            (name.to_owned(), shape)
        };
        let mut shapes = Vec::new();
        for (name, t) in &args.inputs {
            shapes.push(shape(name, t, r.inputs[spec::input(r, name)?].complex));
        }
        for (name, t) in &args.initial {
            shapes.push(shape(
                name,
                t,
                r.states[spec::state(r, name, "initial state")?].complex,
            ));
        }
        let shapes = shapes
            .iter()
            .map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let extents = bind_extents(&prepared.specialized, shapes);
        let extents = extents.map_err(|source| Error::Shape {
            kernel: r.name.clone(),
            source: Box::new(source),
        })?;
        Ok((spec, extents))
    }

    /// Memory for the results of a run, zeros.
    ///
    /// # Errors
    /// As [`Kernel::resolve`]; [`Error::OutOfMemory`].
    pub fn results(&self, args: &OwnedArgs) -> Result<OwnedResults, Error> {
        let (spec, extents) = self.resolve(args)?;
        let r = self.recurrence();
        let zeros = |axes: &[selscan_dsl::AxisId], complex: bool, dtype: Dtype| {
            let mut shape = extents.shape(axes);
            shape.extend(complex.then_some(2));
            Tensor::zeros(dtype, &shape)
        };
        let mut results = OwnedResults::default();
        for (decl, &dtype) in r.outputs.iter().zip(&spec.outputs) {
            let tensor = zeros(&decl.axes, decl.complex, dtype)?;
            results.outputs.insert(decl.name.clone(), tensor);
        }
        for (decl, dtype) in r.states.iter().zip(&spec.last) {
            if let Some(dtype) = *dtype {
                let tensor = zeros(&decl.axes, decl.complex, dtype)?;
                results.last.insert(decl.name.clone(), tensor);
            }
        }
        Ok(results)
    }

    /// Runs the kernel forward and backward into memory of its own: its results, and the gradients by the inputs and
    /// initial states that `by` names, of their types (those by states of the cotangents').
    ///
    /// # Errors
    /// As [`Kernel::forward_for_grad`] and [`Kernel::backward`].
    pub fn run_gradients(
        &self,
        args: &OwnedArgs,
        cotangents: &OwnedResults,
        by: &[&str],
    ) -> Result<(OwnedResults, OwnedArgs), Error> {
        let r = self.recurrence();
        let mut results = self.results(args)?;
        let checkpoints = self.forward_for_grad(args.args(&mut results))?;
        let mut found = OwnedArgs::default();
        for &name in by {
            // Numbers that are not written are then seen.
            let like = |tensor: &Tensor| {
                let mut made = Tensor::zeros(tensor.dtype(), tensor.shape())?;
                made.fill(f64::NAN);
                Ok::<_, Error>(made)
            };
            match (args.inputs.get(name), results.last.get(name)) {
                (Some(input), _) => found.inputs.insert(name.to_owned(), like(input)?),
                (None, Some(state)) => {
                    let tensor = like(cotangents.last.get(name).unwrap_or(state))?;
                    found.initial.insert(name.to_owned(), tensor)
                }
                (None, None) => {
                    return Err(spec::state(r, name, "input or state").err().unwrap_or(
                        Error::Gradient {
                            kernel: r.name.clone(),
                            why: format!("`{name}` was not given, so there is no gradient by it"),
                        },
                    ));
                }
            };
        }
        let mut wanted = Gradients::new();
        for (name, tensor) in &cotangents.outputs {
            wanted = wanted.cotangent(name, tensor);
        }
        for (name, tensor) in &cotangents.last {
            wanted = wanted.last_cotangent(name, tensor);
        }
        for (name, tensor) in &mut found.inputs {
            wanted = wanted.gradient(name, tensor);
        }
        for (name, tensor) in &mut found.initial {
            wanted = wanted.initial_gradient(name, tensor);
        }
        let mut nothing = OwnedResults::default();
        self.backward(args.args(&mut nothing), &checkpoints, wanted)?;
        Ok((results, found))
    }

    /// Runs the kernel into memory of its own.
    ///
    /// # Errors
    /// As [`Kernel::launch`].
    pub fn run(&self, args: &OwnedArgs) -> Result<OwnedResults, Error> {
        let mut results = self.results(args)?;
        self.launch(args.args(&mut results))?;
        Ok(results)
    }
}
