//! Simplification finds what a compiler writer expects of it, and changes no meaning.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use selscan_dsl::*;

/// Builds recurrences without the parser.
struct Builder {
    r: Recurrence,
}

impl Builder {
    fn new(axes: &[&str], time: u8) -> Self {
        let axes = axes.iter().map(|name| AxisDecl {
            name: (*name).to_owned(),
            alias_of: None,
        });
        Builder {
            r: Recurrence {
                name: "test".to_owned(),
                doc: vec![],
                axes: axes.collect(),
                time: AxisId(time),
                inputs: vec![],
                states: vec![],
                outputs: vec![],
                graph: Graph::new(AxisId(time)),
            },
        }
    }
    fn axes(&self, names: &str) -> Vec<AxisId> {
        names
            .chars()
            .map(|c| self.r.axis_named(&c.to_string()).unwrap())
            .collect()
    }
    fn input(&mut self, name: &str, axes: &str, complex: bool) -> NodeId {
        let axes = self.axes(axes);
        self.r.inputs.push(InputDecl {
            name: name.to_owned(),
            kind: InputKind::Tensor,
            axes,
            complex,
            optional: false,
        });
        self.r.read_input(InputId(self.r.inputs.len() as u32 - 1))
    }
    fn state(&mut self, name: &str, axes: &str, complex: bool) -> (StateId, NodeId) {
        let axes = self.axes(axes);
        self.r.states.push(StateDecl {
            name: name.to_owned(),
            axes,
            complex,
            reverse: false,
            hidden: false,
            init: 0.0,
            update: NodeId(0),
            update_im: None,
        });
        let id = StateId(self.r.states.len() as u32 - 1);
        (id, self.r.read_state(id, When::Prev))
    }
    fn op(&mut self, op: Op, xs: &[NodeId]) -> NodeId {
        self.r.graph.op(op, xs)
    }
    fn sum(&mut self, axis: &str, x: NodeId) -> NodeId {
        let axis = self.r.axis_named(axis).unwrap();
        self.r.graph.add(Node::Reduce {
            op: ReduceOp::Sum,
            axis,
            x,
        })
    }
    fn set(&mut self, s: StateId, update: NodeId) -> NodeId {
        self.r.states[s.0 as usize].update = update;
        self.r.read_state(s, When::Next)
    }
    fn output(&mut self, axes: &str, value: NodeId) {
        let axes = self.axes(axes);
        let complex = self.r.graph.ty(value) == Type::Complex;
        self.r.outputs.push(OutputDecl {
            name: "out".to_owned(),
            axes,
            complex,
            value,
            value_im: None,
        });
    }
}

fn mamba() -> Recurrence {
    let mut k = Builder::new(&["B", "L", "D", "N"], 1);
    let u = k.input("u", "BLD", false);
    let delta = k.input("delta", "BLD", false);
    let a = k.input("a", "DN", false);
    let b = k.input("b", "BLN", false);
    let c = k.input("c", "BLN", false);
    let d = k.input("d", "D", false);
    let z = k.input("z", "BLD", false);
    let bias = k.input("delta_bias", "D", false);
    let (h, h_prev) = k.state("h", "BDN", false);
    let delta = k.op(Op::Add, &[delta, bias]);
    let delta = k.op(Op::Softplus, &[delta]);
    let da = k.op(Op::Mul, &[delta, a]);
    let a_bar = k.op(Op::Exp, &[da]);
    let b_bar = k.op(Op::Mul, &[delta, b]);
    let keep = k.op(Op::Mul, &[a_bar, h_prev]);
    let drive = k.op(Op::Mul, &[b_bar, u]);
    let next = k.op(Op::Add, &[keep, drive]);
    let h = k.set(h, next);
    let ch = k.op(Op::Mul, &[c, h]);
    let y = k.sum("N", ch);
    let du = k.op(Op::Mul, &[d, u]);
    let y = k.op(Op::Add, &[y, du]);
    let s = k.op(Op::Sigmoid, &[z]);
    let silu = k.op(Op::Mul, &[z, s]);
    let y = k.op(Op::Mul, &[y, silu]);
    k.output("BLD", y);
    k.r
}

/// The nodes that a recurrence reaches, each with the names of its axes.
fn nodes(r: &Recurrence) -> Vec<(Node, String)> {
    let ids = r.graph.reachable(&r.roots());
    let names = |axes: AxisSet| axes.iter().map(|a| r.axis_name(a)).collect::<String>();
    ids.into_iter()
        .map(|id| (r.graph.node(id).clone(), names(r.graph.axes(id))))
        .collect()
}

#[test]
fn mambas_scan_is_fused() {
    let scan = Scan::derive(&mamba());
    let r = &scan.recurrence;
    let nodes = nodes(r);
    let over = |op: Op| -> Vec<&str> {
        nodes
            .iter()
            .filter(|(n, _)| matches!(n, Node::Op(o, _) if *o == op))
            .map(|(_, axes)| axes.as_str())
            .collect()
    };
    assert!(over(Op::Exp).is_empty());
    assert_eq!(over(Op::Exp2), ["BLDN"]);
    // a·log2(e) once per channel and state, δ·u once per channel, and four products per point: (δ·a), ā·h, (δu)·b, c·h.
    let mut products = over(Op::Mul);
    products.sort_unstable();
    assert_eq!(
        products,
        [
            "BLD", "BLD", "BLD", "BLD", "BLDN", "BLDN", "BLDN", "BLDN", "DN"
        ]
    );
    assert_eq!(scan.class, Class::SelectiveDiagonal);
    assert!(scan.states[0].affine.is_ok());
}

/// Random recurrences, real and complex, keep their meaning through splitting and through simplification.
#[test]
fn simplification_keeps_the_meaning() {
    let mut finite = 0;
    for seed in 0..2000 {
        let mut random = common::Random(seed);
        let r = common::recurrence(&mut random, false);
        let inputs = common::inputs(&r, &mut random);
        let split = r.split_complex();
        let simple = simplify(&split);
        assert!(complex::is_real(&simple));
        let fail = |e: String| panic!("seed {seed}: {e}");
        common::same_meaning(&r, &split, &inputs).unwrap_or_else(fail);
        finite += common::same_meaning(&split, &simple, &inputs).unwrap_or_else(fail);
        let fail = |e: String| panic!("seed {seed}, again: {e}");
        common::same_meaning(&split, &simplify(&simple), &inputs).unwrap_or_else(fail);
        assert!(egraph::cost(&simple) <= egraph::cost(&split), "seed {seed}");
        assert_eq!(simplify(&split), simple, "seed {seed}: deterministic");
    }
    assert!(finite > 5000, "{finite} numbers compared");
}
