//! The meaning of a recurrence: plain loops in f64.
//!
//! In: a [`Recurrence`] and [`Inputs`]. Out: every output and every last state. At each time step each node is an
//! array over its own axes; nodes that do not vary in time are computed once. States of one direction run
//! together; a state that another direction reads is computed for all t first.
//!
//! [`eval_with_bound`] also carries the running first-order error bound that is this project's one tolerance,
//! |y − y64| ≤ K·eps·m with m(x) = |x| of an input and m(f(x₁, …)) = |f| + Σ |∂f/∂xᵢ|·m(xᵢ).

mod machine;
mod node;
mod order;

use crate::array::{Array, Inputs, Outputs};
use crate::axis::{AxisId, Extents};
use crate::recurrence::{InputKind, Recurrence};
use crate::shape::{ShapeError, axis_names, bind_extents};
use machine::Machine;
use node::Value;

/// Why a recurrence has no value for these inputs.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names the fields
pub enum EvalError {
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error(
        "`{name}` has the shape {shape:?}, which takes {wanted} numbers, but holds {found}; complex elements are two numbers each"
    )]
    Data {
        name: String,
        shape: Vec<usize>,
        wanted: usize,
        found: usize,
    },
    #[error("`{name}` is declared {wanted}, but a {found} array was given")]
    Type {
        name: String,
        wanted: &'static str,
        found: &'static str,
    },
    #[error("`{name}` is a flag: name it in `flags` instead of giving it a tensor")]
    FlagIsNoTensor { name: String },
    #[error("`{kernel}` has no flag `{name}`")]
    UnknownFlag { kernel: String, name: String },
    #[error("`{name}` needs its own next value to be computed; read a state before its assignment")]
    Cyclic { name: String },
    #[error(
        "`{kernel}` reduces or shifts over its time axis; only states may carry values through time"
    )]
    OverTime { kernel: String },
    #[error("an intermediate value over [{axes}] has more elements than memory can address")]
    TooBig { axes: String },
}

/// The outputs and last states of `r`.
///
/// # Errors
/// [`EvalError`] where the inputs do not fit the recurrence.
pub fn eval(r: &Recurrence, inputs: &Inputs) -> Result<Outputs, EvalError> {
    Ok(run(r, inputs, false)?.0)
}

/// The outputs and last states of `r`, and for every element its magnitude m, in arrays of the same layout
/// (both halves of a complex element have the same m).
///
/// # Errors
/// [`EvalError`] where the inputs do not fit the recurrence.
pub fn eval_with_bound(r: &Recurrence, inputs: &Inputs) -> Result<(Outputs, Outputs), EvalError> {
    run(r, inputs, true)
}

fn run(r: &Recurrence, inputs: &Inputs, bound: bool) -> Result<(Outputs, Outputs), EvalError> {
    check(r, inputs)?;
    let mut r = r.specialize(&|name| inputs.has(name));
    let given = inputs.tensors.iter().chain(&inputs.initial);
    let extents = bind_extents(
        &r,
        given.map(|(name, x)| (name.as_str(), x.shape.as_slice())),
    )?;
    let mut tensors = inputs.tensors.clone();
    if let Some(seq_idx) = &inputs.seq_idx {
        check_seq_idx(&r, &extents, seq_idx)?;
        tensors.extend(r.boundary_inputs(seq_idx));
        r = r.with_boundaries();
    }
    let values = r
        .inputs
        .iter()
        .map(|i| {
            tensors
                .get(&i.name)
                .map_or_else(Value::default, |x| Value::of(x, bound))
        })
        .collect();
    let initial = r
        .states
        .iter()
        .map(|s| {
            let points = extents.shape(&s.axes).iter().product();
            match inputs.initial.get(&s.name) {
                Some(x) => Value::of(x, bound),
                None => Value::new(points, s.complex, bound, s.init),
            }
        })
        .collect();
    let machine = Machine::new(&r, &extents, values, initial, bound)?;
    Ok(machine.run())
}

/// What shapes do not say: flags, types, and as much data as the shape takes.
fn check(r: &Recurrence, inputs: &Inputs) -> Result<(), EvalError> {
    for name in &inputs.flags {
        let decl = r.input_named(name).map(|i| r.input(i));
        if decl.is_none_or(|d| d.kind != InputKind::Flag) {
            return Err(EvalError::UnknownFlag {
                kernel: r.name.clone(),
                name: name.clone(),
            });
        }
    }
    for (name, x) in &inputs.tensors {
        if let Some(decl) = r.input_named(name).map(|i| r.input(i)) {
            if decl.kind == InputKind::Flag {
                return Err(EvalError::FlagIsNoTensor { name: name.clone() });
            }
            check_array(name, x, decl.complex)?;
        }
    }
    for (name, x) in &inputs.initial {
        match r.state_named(name) {
            Some(state) => check_array(name, x, r.state(state).complex)?,
            None => {
                let known: Vec<&str> = r.states.iter().map(|s| s.name.as_str()).collect();
                return Err(EvalError::Shape(ShapeError::Unknown {
                    kernel: r.name.clone(),
                    name: name.clone(),
                    known: format!("the states {}", known.join(", ")),
                }));
            }
        }
    }
    Ok(())
}

fn check_array(name: &str, x: &Array, complex: bool) -> Result<(), EvalError> {
    let word = |complex| if complex { "complex" } else { "real" };
    if x.complex != complex {
        return Err(EvalError::Type {
            name: name.to_owned(),
            wanted: word(complex),
            found: word(x.complex),
        });
    }
    let Some(wanted) = x.wanted_len() else {
        return Err(EvalError::Shape(ShapeError::Overflow {
            name: name.to_owned(),
            shape: x.shape.clone(),
        }));
    };
    if wanted != x.data.len() {
        return Err(EvalError::Data {
            name: name.to_owned(),
            shape: x.shape.clone(),
            wanted,
            found: x.data.len(),
        });
    }
    Ok(())
}

fn check_seq_idx(r: &Recurrence, extents: &Extents, seq_idx: &Array) -> Result<(), EvalError> {
    let name = "seq_idx".to_owned();
    check_array(&name, seq_idx, false)?;
    let axes: Vec<AxisId> = r.batch_axis().into_iter().chain([r.time]).collect();
    if axes.len() != seq_idx.shape.len() {
        return Err(EvalError::Shape(ShapeError::Rank {
            name,
            axes: axis_names(r, &axes),
            wanted: axes.len(),
            found: seq_idx.shape.clone(),
        }));
    }
    for (&axis, &found) in axes.iter().zip(&seq_idx.shape) {
        if extents.get(axis) != found {
            return Err(EvalError::Shape(ShapeError::Extent {
                name,
                axis: r.axis_name(axis).to_owned(),
                found,
                wanted: extents.get(axis),
                by: r.name.clone(),
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::axis::AxisDecl;
    use crate::expr::{Graph, InputId, Node, NodeId, StateId, When};
    use crate::op::Op;
    use crate::recurrence::{InputDecl, OutputDecl, StateDecl};

    const TIME: AxisId = AxisId(1);

    /// A kernel over axes B, L, N with the inputs, states and outputs that a test adds.
    fn kernel() -> Recurrence {
        let axis = |name: &str| AxisDecl {
            name: name.to_owned(),
            alias_of: None,
        };
        Recurrence {
            name: "kernel".to_owned(),
            doc: vec![],
            axes: vec![axis("B"), axis("L"), axis("N")],
            time: TIME,
            inputs: vec![],
            states: vec![],
            outputs: vec![],
            graph: Graph::new(TIME),
        }
    }
    fn axes(ids: &[u8]) -> Vec<AxisId> {
        ids.iter().map(|&i| AxisId(i)).collect()
    }
    fn input(r: &mut Recurrence, name: &str, ids: &[u8], complex: bool) -> NodeId {
        r.inputs.push(InputDecl {
            name: name.to_owned(),
            kind: InputKind::Tensor,
            axes: axes(ids),
            complex,
            optional: false,
        });
        r.read_input(InputId(r.inputs.len() as u32 - 1))
    }
    /// Declares a state; its update is set by the test.
    fn state(r: &mut Recurrence, name: &str, ids: &[u8], complex: bool, reverse: bool) -> StateId {
        r.states.push(StateDecl {
            name: name.to_owned(),
            axes: axes(ids),
            complex,
            reverse,
            hidden: false,
            init: 0.0,
            update: NodeId(0),
            update_im: None,
        });
        StateId(r.states.len() as u32 - 1)
    }
    fn output(r: &mut Recurrence, value: NodeId) {
        r.outputs.push(OutputDecl {
            name: "out".to_owned(),
            axes: axes(&[0, 1]),
            complex: false,
            value,
            value_im: None,
        });
    }
    fn row(data: &[f64]) -> Array {
        Array::real(&[1, data.len()], data.to_vec())
    }

    /// h = h/2 + x; y = h.
    fn decay(reverse: bool) -> Recurrence {
        let mut r = kernel();
        let x = input(&mut r, "x", &[0, 1], false);
        let h = state(&mut r, "h", &[0], false, reverse);
        let prev = r.read_state(h, When::Prev);
        let half = r.graph.constant(0.5);
        let decayed = r.graph.op(Op::Mul, &[half, prev]);
        r.states[0].update = r.graph.op(Op::Add, &[decayed, x]);
        let next = r.read_state(h, When::Next);
        output(&mut r, next);
        r
    }

    #[test]
    fn a_state_runs_forward_and_backward() {
        let inputs = Inputs::new()
            .with("x", row(&[1.0, 2.0, 4.0]))
            .with_initial("h", Array::real(&[1], vec![8.0]));
        let out = eval(&decay(false), &inputs).unwrap();
        assert_eq!(out.tensors["out"].data, [5.0, 4.5, 6.25]);
        assert_eq!(out.last["h"].data, [6.25]);
        let out = eval(&decay(true), &inputs).unwrap();
        assert_eq!(out.tensors["out"].data, [4.0, 6.0, 8.0]);
        assert_eq!(out.last["h"].data, [4.0]);
    }

    #[test]
    fn no_step_keeps_the_initial_state() {
        let inputs = Inputs::new()
            .with("x", Array::real(&[2, 0], vec![]))
            .with_initial("h", Array::real(&[2], vec![8.0, 9.0]));
        let out = eval(&decay(false), &inputs).unwrap();
        assert_eq!(out.tensors["out"].shape, [2, 0]);
        assert_eq!(out.last["h"].data, [8.0, 9.0]);
    }

    #[test]
    fn packed_sequences_reset_to_zero_and_not_to_the_initial_state() {
        let inputs = Inputs::new()
            .with("x", row(&[1.0, 2.0, 4.0]))
            .with_initial("h", Array::real(&[1], vec![8.0]))
            .with_seq_idx(row(&[3.0, 3.0, 4.0]));
        let out = eval(&decay(false), &inputs).unwrap();
        assert_eq!(out.tensors["out"].data, [5.0, 4.5, 4.0]);
        let out = eval(&decay(true), &inputs).unwrap();
        assert_eq!(out.tensors["out"].data, [2.0, 2.0, 8.0]);
        let wrong = inputs.with_seq_idx(row(&[0.0]));
        let error = eval(&decay(false), &wrong).unwrap_err().to_string();
        assert!(
            error.contains("`seq_idx`") && error.contains('L'),
            "{error}"
        );
    }

    /// h[n] = h[n+1], h[last] = x (a shift register): y = Σ_n h[n], here also across a sequence boundary.
    #[test]
    fn a_shift_register_forgets_at_a_boundary() {
        let mut r = kernel();
        let x = input(&mut r, "x", &[0, 1], false);
        let h = state(&mut r, "h", &[0, 2], false, false);
        let prev = r.read_state(h, When::Prev);
        r.states[0].update = r.graph.add(Node::Shift {
            axis: AxisId(2),
            by: -1,
            x: prev,
            fill: x,
        });
        let next = r.read_state(h, When::Next);
        let sum = r.graph.add(Node::Reduce {
            op: crate::ReduceOp::Sum,
            axis: AxisId(2),
            x: next,
        });
        output(&mut r, sum);
        let inputs = Inputs::new()
            .with("x", row(&[1.0, 2.0, 4.0, 8.0]))
            .with_initial("h", Array::real(&[1, 3], vec![10.0, 20.0, 40.0]));
        let out = eval(&r, &inputs).unwrap();
        assert_eq!(out.tensors["out"].data, [61.0, 43.0, 7.0, 14.0]);
        assert_eq!(out.last["h"].data, [2.0, 4.0, 8.0]);
        let inputs = inputs.with_seq_idx(row(&[0.0, 0.0, 1.0, 1.0]));
        let out = eval(&r, &inputs).unwrap();
        assert_eq!(out.tensors["out"].data, [61.0, 43.0, 4.0, 12.0]);
        assert_eq!(out.last["h"].data, [0.0, 4.0, 8.0]);
    }

    /// h = a·h + x with complex a: two turns of a quarter make −1.
    #[test]
    fn complex_states_rotate() {
        let mut r = kernel();
        let x = input(&mut r, "x", &[0, 1], false);
        let a = input(&mut r, "a", &[], true);
        let h = state(&mut r, "h", &[0], true, false);
        let prev = r.read_state(h, When::Prev);
        let turned = r.graph.op(Op::Mul, &[a, prev]);
        r.states[0].update = r.graph.op(Op::Add, &[turned, x]);
        let next = r.read_state(h, When::Next);
        let re = r.graph.op(Op::Re, &[next]);
        output(&mut r, re);
        let inputs = Inputs::new()
            .with("x", row(&[1.0, 0.0, 0.0]))
            .with("a", Array::complex(&[], vec![0.0, 2.0]));
        let (out, bound) = eval_with_bound(&r, &inputs).unwrap();
        assert_eq!(out.tensors["out"].data, [1.0, 0.0, -4.0]);
        assert_eq!(out.last["h"].data, [-4.0, 0.0]);
        assert!(bound.last["h"].data.iter().all(|&m| m >= 4.0));
    }

    /// A forward state that reads a backward state that reads a forward state: three passes.
    #[test]
    fn directions_take_turns_and_a_circle_of_them_is_refused() {
        let mut r = kernel();
        let x = input(&mut r, "x", &[0, 1], false);
        let states: Vec<StateId> = [("f", false), ("g", true), ("h", false)]
            .iter()
            .map(|(name, reverse)| state(&mut r, name, &[0], false, *reverse))
            .collect();
        let mut source = x;
        for (i, &s) in states.iter().enumerate() {
            let prev = r.read_state(s, When::Prev);
            r.states[i].update = r.graph.op(Op::Add, &[prev, source]);
            source = r.read_state(s, When::Next);
        }
        // g at t + 1, which is 0 after the last step.
        let after = r.read_state(states[1], When::Prev);
        let sum = r.graph.op(Op::Add, &[source, after]);
        output(&mut r, sum);
        let inputs = Inputs::new().with("x", row(&[1.0, 2.0, 4.0]));
        let out = eval(&r, &inputs).unwrap();
        // f = 1 3 7, g = 11 10 7, h = 11 21 28.
        assert_eq!(out.tensors["out"].data, [21.0, 28.0, 28.0]);
        r.states[0].update = r.graph.op(Op::Add, &[source, x]);
        assert!(matches!(eval(&r, &inputs), Err(EvalError::Cyclic { .. })));
    }

    #[test]
    fn a_state_that_needs_its_own_next_value_is_refused() {
        let mut r = decay(false);
        let next = r.outputs[0].value;
        r.outputs[0].value = r.graph.op(Op::Neg, &[next]);
        r.states[0].update = r.graph.op(Op::Exp, &[next]);
        let inputs = Inputs::new().with("x", row(&[1.0]));
        assert!(matches!(eval(&r, &inputs), Err(EvalError::Cyclic { .. })));
    }

    /// The f32 run of h = h/2 + x stays within the bound, which is not far above it.
    #[test]
    fn the_bound_holds_and_is_not_idle() {
        let xs: Vec<f64> = (0..200)
            .map(|i| f64::from((i as f32 * 0.7).sin()))
            .collect();
        let (out, bound) =
            eval_with_bound(&decay(false), &Inputs::new().with("x", row(&xs))).unwrap();
        let (mut h, eps) = (0.0f32, f64::from(f32::EPSILON));
        for (i, &x) in xs.iter().enumerate() {
            h = 0.5 * h + x as f32;
            let (y, m) = (out.tensors["out"].data[i], bound.tensors["out"].data[i]);
            assert!((f64::from(h) - y).abs() <= eps * m, "{i}");
            assert!(m < 20.0, "{m}");
        }
    }

    #[test]
    fn wrong_inputs_are_named() {
        let r = decay(false);
        for (inputs, wanted) in [
            (Inputs::new(), "`x` [B, L] is missing"),
            (Inputs::new().with("y", row(&[1.0])), "no `y`"),
            (
                Inputs::new().with("x", Array::scalar(1.0)),
                "pass 2 extents",
            ),
            (
                Inputs::new().with("x", Array::real(&[1, 2], vec![1.0])),
                "holds 1",
            ),
            (
                Inputs::new().with("x", Array::complex(&[1, 1], vec![1.0; 2])),
                "declared real",
            ),
            (
                Inputs::new().with("x", row(&[1.0])).with_flag("f"),
                "no flag `f`",
            ),
            (
                Inputs::new()
                    .with("x", row(&[1.0]))
                    .with_initial("h", Array::real(&[2], vec![0.0; 2])),
                "axis B of `h` has the extent 2, but 1 in `x`",
            ),
            (
                Inputs::new().with("x", Array::real(&[0, usize::MAX, 1], vec![])),
                "more elements than memory",
            ),
        ] {
            let error = eval(&r, &inputs).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
