//! Random recurrences and random numbers for them.

#![allow(dead_code)] // each test uses its part

mod random;

use std::collections::BTreeMap;

use selscan_dsl::*;

pub use random::Random;

impl Random {
    /// In −1.5..1.5.
    pub fn number(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * 3.0
    }
}

/// Extents by axis name, for tests.
pub const EXTENTS: [(&str, usize); 14] = [
    ("B", 2),
    ("L", 4),
    ("D", 3),
    ("N", 2),
    ("M", 2),
    ("D2", 3),
    ("N2", 2),
    ("G", 2),
    ("H", 4),
    ("K", 3),
    ("P", 2),
    ("V", 2),
    ("N3", 2),
    ("H2", 4),
];

/// A recurrence without declarations over the axes B, L (time), D, N and M = N.
pub fn empty() -> Recurrence {
    let axes = EXTENTS[..5].iter().map(|(name, _)| AxisDecl {
        name: (*name).to_owned(),
        alias_of: (*name == "M").then_some(AxisId(3)),
    });
    Recurrence {
        name: "random".to_owned(),
        doc: vec![],
        axes: axes.collect(),
        time: AxisId(1),
        inputs: vec![],
        states: vec![],
        outputs: vec![],
        graph: Graph::new(AxisId(1)),
    }
}

pub fn axes(r: &Recurrence, names: &str) -> Vec<AxisId> {
    let id = |c: char| r.axis_named(&c.to_string()).unwrap();
    names.chars().map(id).collect()
}

pub fn add_input(r: &mut Recurrence, name: &str, over: &str, complex: bool) -> NodeId {
    let axes = axes(r, over);
    r.inputs.push(InputDecl {
        name: name.to_owned(),
        kind: InputKind::Tensor,
        axes,
        complex,
        optional: false,
    });
    r.read_input(InputId(r.inputs.len() as u32 - 1))
}

pub fn add_state(
    r: &mut Recurrence,
    name: &str,
    over: &str,
    complex: bool,
    reverse: bool,
) -> NodeId {
    let axes = axes(r, over);
    r.states.push(StateDecl {
        name: name.to_owned(),
        axes,
        complex,
        reverse,
        hidden: false,
        init: 0.0,
        update: NodeId(0),
        update_im: None,
    });
    r.read_state(StateId(r.states.len() as u32 - 1), When::Prev)
}

pub fn add_output(r: &mut Recurrence, value: NodeId) {
    let complex = r.graph.ty(value) == Type::Complex;
    // Every output names the time axis.
    let axes = r.graph.axes(value).with(r.time).iter().collect();
    r.outputs.push(OutputDecl {
        name: format!("out{}", r.outputs.len()),
        axes,
        complex,
        value,
        value_im: None,
    });
}

/// A random number of every type for everything that `r` takes, initial states included.
pub fn inputs(r: &Recurrence, random: &mut Random) -> Inputs {
    let extent: BTreeMap<&str, usize> = EXTENTS.into_iter().collect();
    let mut array = |axes: &[AxisId], complex: bool| {
        let shape: Vec<usize> = axes.iter().map(|&a| extent[r.axis_name(a)]).collect();
        let count: usize = shape.iter().product();
        let data = (0..count * if complex { 2 } else { 1 }).map(|_| random.number());
        Array {
            complex,
            data: data.collect(),
            shape,
        }
    };
    let mut inputs = Inputs::new();
    for i in &r.inputs {
        inputs = inputs.with(&i.name, array(&i.axes, i.complex));
    }
    for s in &r.states {
        inputs = inputs.with_initial(&s.name, array(&s.axes, s.complex));
    }
    inputs
}

/// A random recurrence: up to two states, real or complex, forward or not, and an output.
pub fn recurrence(random: &mut Random, two_ways: bool) -> Recurrence {
    let mut r = empty();
    let complex = random.below(3) == 0;
    let mut pool = Vec::new();
    for (k, over) in ["BLD", "BLN", "DN", "D", "", "BLDN", "MN", "LB"]
        .into_iter()
        .enumerate()
    {
        let complex = complex && random.below(2) == 0;
        pool.push(add_input(&mut r, &format!("x{k}"), over, complex));
    }
    let names = ["h", "g"];
    let count = 1 + random.below(2);
    for (k, name) in names[..count].iter().enumerate() {
        let reverse = two_ways && k == 1;
        let over = random.pick(&["BDN", "BD", "BN"]);
        let complex = complex && random.below(2) == 0;
        let h = add_state(&mut r, name, over, complex, reverse);
        pool.extend([h, h]);
    }
    for value in [0.0, 1.0, -1.0, 2.0, 0.5] {
        pool.push(r.graph.constant(value));
    }
    pool.push(r.graph.add(Node::Index(AxisId(3))));
    pool.push(r.graph.add(Node::Extent(AxisId(2))));
    let leaves = pool.len();
    for k in 0..count {
        let steps = 4 + random.below(10);
        // The reversed state reads no forward one.
        let other = StateId(1 - k as u32);
        let mut own: Vec<NodeId> = pool.clone();
        if two_ways {
            own.retain(|&x| !reads(&r, x, other));
        }
        grow(&mut r, &mut own, leaves, steps, random);
        let update = close(&mut r, *own.last().unwrap(), StateId(k as u32));
        r.states[k].update = update;
        pool.push(r.read_state(StateId(k as u32), When::Next));
    }
    for _ in 0..1 + random.below(2) {
        let steps = 4 + random.below(10);
        grow(&mut r, &mut pool, leaves, steps, random);
        let value = *pool.last().unwrap();
        let over_m = r.graph.axes(value).contains(AxisId(4));
        let value = if over_m {
            sum(&mut r, AxisId(4), value)
        } else {
            value
        };
        add_output(&mut r, value);
    }
    // The inputs that are not read stay: they bind their axes.
    r
}

fn reads(r: &Recurrence, id: NodeId, state: StateId) -> bool {
    let nodes = r.graph.reachable(&[id]);
    let is = |id: &NodeId| matches!(r.graph.node(*id), Node::State { state: s, .. } if *s == state);
    nodes.iter().any(is)
}

fn sum(r: &mut Recurrence, axis: AxisId, x: NodeId) -> NodeId {
    let op = ReduceOp::Sum;
    r.graph.add(Node::Reduce { op, axis, x })
}

/// Adds random nodes over those of the pool; conditions compare leaves only, since rounding may turn them.
fn grow(
    r: &mut Recurrence,
    pool: &mut Vec<NodeId>,
    leaves: usize,
    steps: usize,
    random: &mut Random,
) {
    use Op::*;
    let common = [
        Add, Add, Sub, Mul, Mul, Mul, Div, Neg, Exp, Select, Conj, Complex,
    ];
    let real = [
        Min, Max, Abs, Sqrt, Rsqrt, Exp2, Expm1, Phi1, Log, Log2, Sin, Cos, Tanh, Sigmoid,
        Softplus, Erf, Re, Im,
    ];
    let mut made = 0;
    while made < steps {
        let recent = pool.len() - random.below(4.min(pool.len())) - 1;
        let x = if random.below(3) == 0 {
            random.pick(pool)
        } else {
            pool[recent]
        };
        let (y, z) = (random.pick(pool), random.pick(pool));
        if random.below(6) == 0 {
            let axis = random.pick(&[AxisId(2), AxisId(3), AxisId(4)]);
            let op = if random.below(4) == 0 {
                ReduceOp::Max
            } else {
                ReduceOp::Sum
            };
            if op == ReduceOp::Sum || r.graph.ty(x) == Type::Real {
                pool.push(r.graph.add(Node::Reduce { op, axis, x }));
                made += 1;
            }
            continue;
        }
        let op = if random.below(4) == 0 {
            random.pick(&real)
        } else {
            random.pick(&common)
        };
        let operands = match op {
            Select => {
                let (a, b) = (
                    random.pick(&pool[..leaves.min(8)]),
                    random.pick(&pool[..leaves.min(8)]),
                );
                if r.graph.ty(a) != Type::Real || r.graph.ty(b) != Type::Real {
                    continue;
                }
                let op = random.pick(&[Lt, Le, Gt, Ge, Eq, Ne]);
                vec![r.graph.op(op, &[a, b]), x, y]
            }
            Div => {
                // Not too near to zero.
                let (abs, one) = (r.graph.op(Abs, &[y]), r.graph.constant(1.0));
                vec![
                    x,
                    if random.below(4) == 0 {
                        y
                    } else {
                        r.graph.op(Add, &[one, abs])
                    },
                ]
            }
            _ => [x, y, z][..op.arity()].to_vec(),
        };
        let types: Vec<Type> = operands.iter().map(|&x| r.graph.ty(x)).collect();
        if op.result(&types).is_some() {
            pool.push(r.graph.op(op, &operands));
            made += 1;
        }
    }
}

/// Fits a value to a state: sums what the state does not vary over, takes the real half for a real one.
fn close(r: &mut Recurrence, value: NodeId, state: StateId) -> NodeId {
    let own: AxisSet = r.state(state).axes.iter().copied().collect();
    let mut value = value;
    for axis in r.graph.axes(value).minus(own.with(r.time)).iter() {
        value = sum(r, axis, value);
    }
    if !r.state(state).complex && r.graph.ty(value) == Type::Complex {
        value = r.graph.op(Op::Re, &[value]);
    }
    value
}

/// Compares within the project's tolerance: |x − y| ≤ K·eps·m with m of both.
pub fn close_enough(what: &str, x: (&Array, &Array), y: (&Array, &Array)) -> Result<(), String> {
    if x.0.shape != y.0.shape || x.0.complex != y.0.complex {
        return Err(format!("{what}: shape {:?} and {:?}", x.0.shape, y.0.shape));
    }
    for i in 0..x.0.data.len() {
        let (a, b) = (x.0.data[i], y.0.data[i]);
        let m = x.1.data[i]
            + if y.1.data[i].is_finite() {
                y.1.data[i]
            } else {
                0.0
            };
        // What has no bound (an infinite slope, say) or no value in the first may be anything in the second.
        let known = a.is_finite() && m.is_finite();
        let close = (a - b).abs() <= 64.0 * f64::EPSILON * m;
        if known && !close {
            return Err(format!("{what}[{i}]: {a} and {b}, magnitude {m}"));
        }
    }
    Ok(())
}

/// Compares all outputs and last states of two recurrences on the same inputs.
pub fn same_meaning(r: &Recurrence, s: &Recurrence, inputs: &Inputs) -> Result<usize, String> {
    let (y, m) = eval_with_bound(r, inputs).map_err(|e| e.to_string())?;
    let (z, k) = eval_with_bound(s, inputs).map_err(|e| e.to_string())?;
    let mut finite = 0;
    for (name, x) in &y.tensors {
        close_enough(
            name,
            (x, &m.tensors[name]),
            (&z.tensors[name], &k.tensors[name]),
        )?;
        finite += x.data.iter().filter(|x| x.is_finite()).count();
    }
    for (name, x) in &y.last {
        close_enough(name, (x, &m.last[name]), (&z.last[name], &k.last[name]))?;
    }
    Ok(finite)
}

/// Mamba's selective scan with all its options (Gu & Dao 2023, Algorithm 2).
pub const MAMBA: &str = "
    fn selective_scan(
        u: Tensor<B, L, D>, delta: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
        d: Option<Tensor<D>>, z: Option<Tensor<B, L, D>>, delta_bias: Option<Tensor<D>>, delta_softplus: Flag,
        h: State<B, D, N>,
    ) -> Tensor<B, L, D> {
        let raw = delta + delta_bias;
        let delta = given(delta_softplus, softplus(raw), raw);
        let (a_bar, b_bar) = discretize::mamba(delta, a, b);
        h = a_bar * h + b_bar * u;
        let y = sum::<N>(c * h) + d * u;
        given(z, y * silu(z), y)
    }";

/// S4D (Gu et al. 2022) with a discretisation; complex.
pub fn s4d(rule: &str) -> String {
    format!(
        "fn s4d(
            u: Tensor<B, L, D>, delta: Tensor<D>, a: Complex<D, N>, c: Complex<D, N>, d: Tensor<D>,
            h: ComplexState<B, D, N>,
        ) -> Tensor<B, L, D> {{
            let (a_bar, b_bar) = discretize::{rule}(delta, a, 1);
            h = a_bar * h + b_bar * u;
            2 * re(sum::<N>(c * h)) + d * u
        }}"
    )
}

/// The only scan of a kernel, with these optional inputs given.
pub fn scan(text: &str, given: &[&str]) -> Scan {
    let r = Recurrence::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let mut scans = prepare(&r, &|name| given.contains(&name), false);
    assert_eq!(scans.len(), 1);
    scans.remove(0)
}
