//! What a kernel would move through memory stage by stage, as written, and what it moves fused.
//!
//! In: a scan (one direction of a kernel), its plan and extents. Out: [`Stage`]s with bytes. As written, each stage
//! reads and writes whole tensors, each element once: the coefficients (a, b) of h' = a h + b over time, the states
//! over time, the outputs. Fused, only inputs and outputs move (and, in chunks of time, the chunks' states).

use std::collections::BTreeSet;

use selscan_codegen::loop_ir::{Ix, Role};
use selscan_codegen::{Dtype, Options, Plan};
use selscan_dsl::scan::Scan;
use selscan_dsl::{AxisId, Extents, Graph, InputId, Node, NodeId, Recurrence, StateId};

/// One stage: what it does and the bytes that it moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub name: &'static str,
    pub reads: f64,
    pub writes: f64,
}

/// The sizes of things in bytes.
struct Sizes<'a> {
    r: &'a Recurrence,
    extents: &'a Extents,
    options: &'a Options,
}

impl Sizes<'_> {
    fn of(&self, axes: impl Iterator<Item = AxisId>, complex: bool, dtype: Dtype) -> f64 {
        let points: f64 = axes.map(|a| self.extents.get(a) as f64).product();
        points * if complex { 2.0 } else { 1.0 } * dtype.bytes() as f64
    }
    fn input(&self, id: InputId) -> f64 {
        let decl = self.r.input(id);
        self.of(
            decl.axes.iter().copied(),
            decl.complex,
            self.options.dtype(&decl.name),
        )
    }
    fn inputs(&self, ids: &BTreeSet<InputId>) -> f64 {
        ids.iter().map(|&id| self.input(id)).sum()
    }
    /// A value at every point that it varies over.
    fn value(&self, id: NodeId) -> f64 {
        let g = &self.r.graph;
        self.of(
            g.axes(id).iter(),
            g.ty(id) == selscan_dsl::Type::Complex,
            self.options.compute_dtype(),
        )
    }
    /// A state at every step.
    fn history(&self, id: StateId) -> f64 {
        let decl = self.r.state(id);
        let axes = decl.axes.iter().copied().chain([self.r.time]);
        self.of(axes, decl.complex, self.options.compute_dtype())
    }
    fn outputs(&self) -> f64 {
        let each = self.r.outputs.iter();
        each.map(|o| {
            self.of(
                o.axes.iter().copied(),
                o.complex,
                self.options.dtype(&o.name),
            )
        })
        .sum()
    }
}

/// Inputs and states that nodes are computed from.
fn leaves(g: &Graph, roots: &[NodeId]) -> (BTreeSet<InputId>, BTreeSet<StateId>) {
    let (mut inputs, mut states) = (BTreeSet::new(), BTreeSet::new());
    for id in g.reachable(roots) {
        match g.node(id) {
            Node::Input { input, .. } => drop(inputs.insert(*input)),
            Node::State { state, .. } => drop(states.insert(*state)),
            _ => {}
        }
    }
    (inputs, states)
}

/// Whether a value stands in memory already: an input, or a number.
fn is_given(g: &Graph, id: NodeId) -> bool {
    matches!(g.node(id), Node::Input { .. } | Node::Const(_))
}

/// The stages as written.
pub fn as_written(scan: &Scan, extents: &Extents, options: &Options) -> Vec<Stage> {
    let r = &scan.source;
    let g = &r.graph;
    let sizes = Sizes {
        r,
        extents,
        options,
    };
    let (mut made, mut passed, mut stepped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut affine, mut other) = (vec![], vec![]);
    for (id, state) in r.state_ids().zip(&scan.states) {
        match &state.affine {
            Ok(pair) => {
                affine.push(id);
                for x in [pair.a, pair.b] {
                    if is_given(g, x) {
                        passed.insert(x)
                    } else {
                        made.insert(x)
                    };
                }
            }
            Err(_) => {
                other.push(id);
                stepped.extend(
                    [Some(r.state(id).update), r.state(id).update_im]
                        .into_iter()
                        .flatten(),
                );
            }
        }
    }
    let value = |ids: &BTreeSet<NodeId>| -> f64 { ids.iter().map(|&id| sizes.value(id)).sum() };
    let history = |ids: &[StateId]| -> f64 { ids.iter().map(|&id| sizes.history(id)).sum() };
    let mut stages = Vec::new();
    if !made.is_empty() {
        let (inputs, states) = leaves(g, &made.iter().copied().collect::<Vec<_>>());
        let states: Vec<StateId> = states.into_iter().collect();
        stages.push(Stage {
            name: "discretize",
            reads: sizes.inputs(&inputs) + history(&states),
            writes: value(&made),
        });
    }
    if !affine.is_empty() {
        stages.push(Stage {
            name: "scan",
            reads: value(&made) + value(&passed),
            writes: history(&affine),
        });
    }
    if !other.is_empty() {
        let (inputs, states) = leaves(g, &stepped.into_iter().collect::<Vec<_>>());
        let states: Vec<StateId> = states.into_iter().collect();
        stages.push(Stage {
            name: "step",
            reads: sizes.inputs(&inputs) + history(&states),
            writes: history(&other),
        });
    }
    let values = r
        .outputs
        .iter()
        .flat_map(|o| [Some(o.value), o.value_im])
        .flatten();
    let (inputs, states) = leaves(g, &values.collect::<Vec<_>>());
    let states: Vec<StateId> = states.into_iter().collect();
    stages.push(Stage {
        name: "project",
        reads: sizes.inputs(&inputs) + history(&states),
        writes: sizes.outputs(),
    });
    stages
}

/// What each pass of a plan moves: its inputs, states and outputs once, workspaces as often as they are named.
pub fn fused(plan: &Plan, extents: &Extents) -> Vec<(String, f64, f64)> {
    let size = |ix: &Ix| {
        let extent = |axis: AxisId| extents.get(axis) as i64;
        ix.eval(&|_| 0, &extent).unwrap_or(0) as f64
    };
    let mut out = Vec::new();
    for pass in &plan.passes {
        let r = &pass.recurrence;
        let bytes = |(role, dtype): &(Role, Dtype), axes: &[AxisId], complex: bool| match role {
            Role::Workspace(number) => plan
                .workspaces
                .get(*number as usize)
                .map_or(0.0, |(d, len)| size(len) * d.bytes() as f64),
            _ => {
                let points: f64 = axes
                    .iter()
                    .map(|a| size(&pass.extents[a.0 as usize]))
                    .product();
                points * if complex { 2.0 } else { 1.0 } * dtype.bytes() as f64
            }
        };
        let inputs = r
            .inputs
            .iter()
            .zip(&pass.inputs)
            .map(|(d, x)| bytes(x, &d.axes, d.complex));
        let state = |given: &[Option<(Role, Dtype)>]| -> f64 {
            let each = r.states.iter().zip(given);
            each.filter_map(|(d, x)| Some(bytes(x.as_ref()?, &d.axes, d.complex)))
                .sum()
        };
        let outputs = r
            .outputs
            .iter()
            .zip(&pass.outputs)
            .map(|(d, x)| bytes(x, &d.axes, d.complex));
        out.push((
            pass.name.clone(),
            inputs.sum::<f64>() + state(&pass.initial),
            outputs.sum::<f64>() + state(&pass.last),
        ));
    }
    out
}
