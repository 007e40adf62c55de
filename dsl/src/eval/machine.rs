//! Time: runs the passes over all steps, keeps the states, writes the outputs.

use super::EvalError;
use super::node::Code;
use super::order::{Pass, Step, passes};
use super::value::{Gather, Value, layout};
use crate::array::{Array, Outputs, positions, strides};
use crate::axis::{AxisId, Extents};
use crate::expr::{NodeId, Type, When};
use crate::recurrence::Recurrence;
use crate::shape::{axis_names, element_count};

/// Where the elements of a state or an output come from: a node, and another one for the imaginary
/// halves after [`Recurrence::split_complex`].
struct Source {
    re: (NodeId, Gather),
    im: Option<(NodeId, Gather)>,
}

impl Source {
    fn new(r: &Recurrence, axes: &[AxisId], re: NodeId, im: Option<NodeId>, e: &Extents) -> Source {
        let gather = |id: NodeId| (id, Gather::new(axes, &layout(&r.graph, id), e));
        Source {
            re: gather(re),
            im: im.map(gather),
        }
    }
    /// Copies the element `point` to the place `to` of `out`.
    fn copy(&self, point: usize, values: &[Value], out: &mut Value, to: usize) {
        let (re, at) = (&values[self.re.0.0 as usize], self.re.1.at(point));
        let (mut x, mut m) = (re.at(at), re.bound(at));
        if let Some((im, at)) = &self.im {
            let (im, at) = (&values[im.0 as usize], at.at(point));
            x.im = im.re[at];
            let other = im.bound(at);
            // An unknown bound stays unknown, which f64::max would forget.
            m = if other.is_nan() { other } else { m.max(other) };
        }
        out.put(to, x, m);
    }
}

/// An output while time runs.
struct Output {
    value: Value,
    source: Source,
    /// For each of its points without time: its place at time 0.
    places: Vec<usize>,
    time_stride: usize,
}

/// Everything that is known while time runs.
pub(super) struct Machine<'a> {
    r: &'a Recurrence,
    extents: &'a Extents,
    passes: Vec<Pass>,
    /// By node; only what the roots reach has code.
    codes: Vec<Option<Code>>,
    values: Vec<Value>,
    inputs: Vec<Value>,
    updates: Vec<Source>,
    states: States,
    outputs: Vec<Output>,
}

/// By state: its values around the current step, and over all of time where a later pass reads them.
struct States {
    initial: Vec<Value>,
    prev: Vec<Value>,
    next: Vec<Value>,
    history: Vec<Option<Vec<Value>>>,
    /// Whether the state's pass is over, so that it is read from its history.
    over: Vec<bool>,
    reverse: Vec<bool>,
}

impl States {
    fn read(&self, state: usize, when: When, t: usize) -> &Value {
        match (&self.history[state], when) {
            (Some(history), When::Next) if self.over[state] => &history[t],
            (Some(history), When::Prev) if self.over[state] => {
                let before = if self.reverse[state] {
                    t.checked_add(1)
                } else {
                    t.checked_sub(1)
                };
                before
                    .and_then(|t| history.get(t))
                    .unwrap_or(&self.initial[state])
            }
            (_, When::Prev) => &self.prev[state],
            (_, When::Next) => &self.next[state],
        }
    }
}

impl<'a> Machine<'a> {
    /// Lays out every node; `inputs` and `initial` are the arrays by id.
    pub fn new(
        r: &'a Recurrence,
        extents: &'a Extents,
        inputs: Vec<Value>,
        initial: Vec<Value>,
        bound: bool,
    ) -> Result<Self, EvalError> {
        let passes = passes(r)?;
        let mut codes: Vec<Option<Code>> = (0..r.graph.len()).map(|_| None).collect();
        let mut values = vec![Value::default(); r.graph.len()];
        for id in r.graph.reachable(&r.roots()) {
            let axes = layout(&r.graph, id);
            let shape = extents.shape(&axes);
            element_count(&shape, true).ok_or_else(|| EvalError::TooBig {
                axes: axis_names(r, &axes),
            })?;
            let code = Code::new(r, id, extents).ok_or_else(|| EvalError::OverTime {
                kernel: r.name.clone(),
            })?;
            let complex = r.graph.ty(id) == Type::Complex;
            codes[id.0 as usize] = Some(code);
            values[id.0 as usize] = Value::new(shape.iter().product(), complex, bound, 0.0);
        }
        let updates = r.states.iter();
        let updates = updates.map(|s| Source::new(r, &s.axes, s.update, s.update_im, extents));
        let mut history = vec![None; r.states.len()];
        for &state in passes.iter().flat_map(|pass| &pass.reads) {
            history[state] = Some(Vec::new());
        }
        Ok(Machine {
            r,
            extents,
            passes,
            codes,
            values,
            inputs,
            updates: updates.collect(),
            states: States {
                prev: initial.clone(),
                next: initial.clone(),
                initial,
                history,
                over: vec![false; r.states.len()],
                reverse: r.states.iter().map(|s| s.reverse).collect(),
            },
            outputs: (0..r.outputs.len())
                .map(|i| output(r, i, extents, bound))
                .collect(),
        })
    }

    /// Runs all of time; returns the values and the bounds.
    pub fn run(mut self) -> (Outputs, Outputs) {
        let steps = self.extents.get(self.r.time);
        for id in self.r.graph.ids() {
            if !self.r.graph.varies_in_time(id) {
                self.compute(id, 0);
            }
        }
        let passes = std::mem::take(&mut self.passes);
        for (i, pass) in passes.iter().enumerate() {
            for step in 0..steps {
                let t = if pass.reverse { steps - 1 - step } else { step };
                self.step(pass, t);
                if i + 1 == passes.len() {
                    self.write_outputs(t);
                }
            }
            for &state in &pass.states {
                self.states.over[state] = true;
                if let (true, Some(history)) = (pass.reverse, &mut self.states.history[state]) {
                    history.reverse();
                }
            }
        }
        self.finish()
    }

    /// One time step of a pass; afterwards `prev` of its states holds the value at `t`.
    fn step(&mut self, pass: &Pass, t: usize) {
        for step in &pass.steps {
            match *step {
                Step::Node(id) => self.compute(id, t),
                Step::Assign(state) => {
                    let next = &mut self.states.next[state];
                    for p in 0..next.re.len() {
                        self.updates[state].copy(p, &self.values, next, p);
                    }
                }
            }
        }
        for &state in &pass.states {
            std::mem::swap(&mut self.states.prev[state], &mut self.states.next[state]);
            if let Some(history) = &mut self.states.history[state] {
                history.push(self.states.prev[state].clone());
            }
        }
    }

    fn compute(&mut self, id: NodeId, t: usize) {
        let place = id.0 as usize;
        if let Some(code) = &self.codes[place] {
            let mut out = std::mem::take(&mut self.values[place]);
            let states = &self.states;
            code.run(&mut out, t, &self.values, &self.inputs, |state, when| {
                states.read(state, when, t)
            });
            self.values[place] = out;
        }
    }

    fn write_outputs(&mut self, t: usize) {
        for output in &mut self.outputs {
            for (p, place) in output.places.iter().enumerate() {
                let to = place + t * output.time_stride;
                output.source.copy(p, &self.values, &mut output.value, to);
            }
        }
    }

    fn finish(self) -> (Outputs, Outputs) {
        let (mut values, mut bounds) = (Outputs::default(), Outputs::default());
        let arrays = |axes: &[AxisId], complex: bool, value: Value| {
            let shape = self.extents.shape(axes);
            let (data, m) = value.interleaved();
            let array = |data| Array {
                shape: shape.clone(),
                complex,
                data,
            };
            (array(data), array(m))
        };
        for (decl, output) in self.r.outputs.iter().zip(self.outputs) {
            let (x, m) = arrays(&decl.axes, decl.complex, output.value);
            values.tensors.insert(decl.name.clone(), x);
            bounds.tensors.insert(decl.name.clone(), m);
        }
        for (decl, last) in self.r.states.iter().zip(self.states.prev) {
            let (x, m) = arrays(&decl.axes, decl.complex, last);
            values.last.insert(decl.name.clone(), x);
            bounds.last.insert(decl.name.clone(), m);
        }
        (values, bounds)
    }
}

fn output(r: &Recurrence, index: usize, extents: &Extents, bound: bool) -> Output {
    let decl = &r.outputs[index];
    let shape = extents.shape(&decl.axes);
    let own = strides(&shape);
    let place = |axis: AxisId| {
        decl.axes
            .iter()
            .position(|&a| a == axis)
            .map_or(0, |i| own[i])
    };
    let axes: Vec<AxisId> = decl.axes.iter().copied().filter(|&a| a != r.time).collect();
    Output {
        value: Value::new(shape.iter().product(), decl.complex, bound, 0.0),
        source: Source::new(r, &axes, decl.value, decl.value_im, extents),
        places: positions(&extents.shape(&axes), |i, at| place(axes[i]) * at),
        time_stride: place(r.time),
    }
}
