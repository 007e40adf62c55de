//! Gradients against central differences: one call of a recurrence and the loss Σ d · y over its outputs and last
//! states.

use selscan_dsl::{Array, Extents, Inputs, Outputs, Recurrence, eval, gradients};

/// The greatest error of a directional derivative, relative to |gradient| · |direction|.
const TOLERANCE: f64 = 1e-6;
/// Steps of the five-point rule; where they disagree there is a kink near by, or a pole.
const STEPS: [f64; 2] = [1e-3, 5e-4];
/// A step that few kinks are nearer than: it decides whether a gradient is wrong or a kink lies between.
const SHORT: f64 = 2e-6;

/// A call and the cotangents of what it computes.
pub struct Call {
    pub r: Recurrence,
    pub inputs: Inputs,
    pub extents: Extents,
    pub cotangents: Outputs,
}

/// Directional derivatives that were compared, and those where differences say nothing.
#[derive(Default, Debug)]
pub struct Counts {
    pub compared: usize,
    pub rough: usize,
}

impl Call {
    /// A call with random cotangents for everything.
    pub fn new(
        r: &Recurrence,
        inputs: Inputs,
        extents: &Extents,
        number: &mut impl FnMut() -> f64,
    ) -> Call {
        let mut cotangents = Outputs::default();
        for o in &r.outputs {
            let d = random(&extents.shape(&o.axes), o.complex, number);
            cotangents.tensors.insert(o.name.clone(), d);
        }
        for s in &r.states {
            let d = random(&extents.shape(&s.axes), s.complex, number);
            cotangents.last.insert(s.name.clone(), d);
        }
        Call {
            r: r.clone(),
            inputs,
            extents: extents.clone(),
            cotangents,
        }
    }

    fn loss(&self, inputs: &Inputs) -> f64 {
        let out = eval(&self.r, inputs).unwrap_or_else(|e| panic!("{e}\n{}", self.r));
        let d = &self.cotangents;
        let tensors = d.tensors.iter().map(|(n, d)| dot(d, &out.tensors[n]));
        let last = d.last.iter().map(|(n, d)| dot(d, &out.last[n]));
        tensors.chain(last).sum()
    }

    /// dL/dε at x + ε v, where `name` is x.
    fn difference(&self, name: &str, v: &Array, step: f64) -> f64 {
        let at = |k: f64| {
            let mut moved = self.inputs.clone();
            let x = moved.tensors.get_mut(name).or(moved.initial.get_mut(name));
            let x = &mut x.unwrap().data;
            x.iter_mut()
                .zip(&v.data)
                .for_each(|(x, v)| *x += k * step * v);
            self.loss(&moved)
        };
        (at(-2.0) - at(2.0) + 8.0 * (at(1.0) - at(-1.0))) / (12.0 * step)
    }

    /// Compares the gradient by every given input and initial state along random directions.
    pub fn check(
        &self,
        directions: usize,
        number: &mut impl FnMut() -> f64,
    ) -> Result<Counts, String> {
        let given = self.inputs.tensors.iter().chain(&self.inputs.initial);
        let given: Vec<(&str, &Array)> = given.map(|(n, x)| (n.as_str(), x)).collect();
        let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
        let found = gradients(&self.r, &self.inputs, &self.cotangents, &names);
        let found = found.map_err(|e| format!("{e}\n{}", self.r))?;
        let mut counts = Counts::default();
        let size = self.loss(&self.inputs).abs();
        for (name, x) in given {
            let g = found.tensors.get(name).or(found.initial.get(name));
            let g = g.ok_or_else(|| format!("no gradient by {name}"))?;
            if (&x.shape, x.complex) != (&g.shape, g.complex) {
                return Err(format!(
                    "the gradient by {name} has the shape {:?}",
                    g.shape
                ));
            }
            for _ in 0..directions {
                let v = random(&x.shape, x.complex, number);
                let [coarse, fine] = STEPS.map(|step| self.difference(name, &v, step));
                let allowed = TOLERANCE * dot(g, g).sqrt() * dot(&v, &v).sqrt();
                let allowed = allowed + 1e-9 * (1.0 + size);
                let smooth = (coarse - fine).abs() <= 0.3 * allowed;
                let ours = dot(g, &v);
                let near = (fine - ours).abs() <= allowed;
                if smooth && near {
                    counts.compared += 1;
                } else if !smooth || (self.difference(name, &v, SHORT) - fine).abs() > allowed {
                    counts.rough += 1;
                } else {
                    return Err(format!(
                        "by {name}: the gradient gives {ours}, differences {coarse} and {fine}\n{}",
                        self.r
                    ));
                }
            }
        }
        Ok(counts)
    }
}

/// Numbers for every element.
pub fn random(shape: &[usize], complex: bool, number: &mut impl FnMut() -> f64) -> Array {
    let mut x = Array::filled(shape, complex, 0.0);
    x.data.iter_mut().for_each(|x| *x = number());
    x
}

fn dot(x: &Array, y: &Array) -> f64 {
    assert_eq!((&x.shape, x.complex), (&y.shape, y.complex));
    x.data.iter().zip(&y.data).map(|(x, y)| x * y).sum()
}
