//! Kernels, data and the comparison with the f64 meaning that the runtime's tests share.
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../../../dsl/tests/common/random.rs"]
mod random;

use selscan_dsl::{Array, Inputs, Outputs, Recurrence, eval_with_bound};
use selscan_runtime::{Cpu, CpuOptions, Dtype, Kernel, OwnedArgs, OwnedResults, Store};

pub use random::Random;

/// Mamba's selective scan with all of its options.
pub const MAMBA: &str = "
#[ssm_kernel]
fn selective_scan(
    u: Tensor<B, L, D>, delta: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
    d: Option<Tensor<D>>, z: Option<Tensor<B, L, D>>, delta_bias: Option<Tensor<D>>, delta_softplus: Flag,
    h: State<B, D, N>,
) -> Tensor<B, L, D> {
    let delta = given(delta_softplus, softplus(delta + delta_bias), delta + delta_bias);
    let (a_bar, b_bar) = discretize::mamba(delta, a, b);
    h = a_bar * h + b_bar * u;
    let y = sum::<N>(c * h) + d * u;
    given(z, y * silu(z), y)
}";

/// A moving average, both ways, with the states of either direction apart.
pub const BOTH_WAYS: &str = "
#[ssm_kernel(bidirectional)]
fn both_ways(x: Tensor<B, L, D>, a: Tensor<D>, h: State<B, D>) -> Tensor<B, L, D> {
    h = a * h + x;
    h
}";

/// A complex diagonal system, complex output and input.
pub const COMPLEX: &str = "
#[ssm_kernel]
fn complex_diagonal(x: Complex<B, L, D>, a: Complex<D>, h: ComplexState<B, D>) -> Complex<B, L, D> {
    h = a * h + x;
    h * conj(a)
}";

/// Not affine: no algorithm but the sequential one.
pub const RNN: &str = "
#[ssm_kernel(N2 = N)]
fn rnn(x: Tensor<B, L, N>, w: Tensor<N, N2>, h: State<B, N>) -> Tensor<B, L, N> {
    h = tanh(sum::<N2>(w * alias::<N, N2>(h)) + x);
    h
}";

/// A convolution over the last three steps: hidden states.
pub const CONVOLUTION: &str = "
#[ssm_kernel]
fn convolution(x: Tensor<B, L, D>, w0: Tensor<D>, w1: Tensor<D>, w2: Tensor<D>) -> Tensor<B, L, D> {
    w0 * x + w1 * delay(x, 1) + w2 * delay(x, 2)
}";

impl Random {
    /// A coin.
    pub fn flip(&mut self) -> bool {
        self.below(2) == 0
    }
    /// An array, uniform in −scale..scale.
    pub fn array(&mut self, shape: &[usize], complex: bool, scale: f64) -> Array {
        let len = shape.iter().product::<usize>() * if complex { 2 } else { 1 };
        let data = (0..len).map(|_| scale * self.signed()).collect();
        if complex {
            Array::complex(shape, data)
        } else {
            Array::real(shape, data)
        }
    }
}

/// A kernel's text as a recurrence.
pub fn recurrence(text: &str) -> Recurrence {
    Recurrence::parse(text).unwrap()
}

/// A CPU that remembers nothing on disk.
pub fn cpu(threads: usize) -> Cpu {
    Cpu::with_options(CpuOptions {
        threads: Some(threads),
        store: Some(Store::none()),
        ..CpuOptions::default()
    })
    .unwrap()
}

/// Inputs of a recurrence with these extents by axis name: the optional ones, initial states and boundaries by a coin.
pub fn inputs(r: &Recurrence, extents: &[(&str, usize)], random: &mut Random) -> Inputs {
    let shape = |axes: &[selscan_dsl::AxisId]| -> Vec<usize> {
        let extent = |&axis: &selscan_dsl::AxisId| {
            let name = r.axis_name(r.canonical(axis));
            extents.iter().find(|(n, _)| *n == name).unwrap().1
        };
        axes.iter().map(extent).collect()
    };
    let mut out = Inputs::new();
    for i in &r.inputs {
        if i.optional && random.flip() {
            continue;
        }
        if i.kind == selscan_dsl::InputKind::Flag {
            out = out.with_flag(&i.name);
        } else {
            let mut array = random.array(&shape(&i.axes), i.complex, 0.7);
            if i.name == "delta" || i.name == "z" {
                array.data.iter_mut().for_each(|x| *x = x.abs());
            }
            if i.name == "a" {
                array.data.iter_mut().for_each(|x| *x = -x.abs());
            }
            out = out.with(&i.name, array);
        }
    }
    for s in &r.states {
        if random.flip() {
            out = out.with_initial(&s.name, random.array(&shape(&s.axes), s.complex, 1.0));
        }
    }
    if random.below(3) == 0 {
        let axes: Vec<_> = r.batch_axis().into_iter().chain([r.time]).collect();
        let shape = shape(&axes);
        let mut at = 0.0;
        let data = (0..shape.iter().product()).map(|_| {
            at += f64::from(u8::from(random.below(5) == 0));
            at
        });
        out = out.with_seq_idx(Array::real(&shape, data.collect()));
    }
    out
}

/// Runs the kernel into poisoned memory.
pub fn run(kernel: &Kernel, args: &OwnedArgs) -> OwnedResults {
    let mut results = kernel.results(args).unwrap();
    results.fill(f64::NAN);
    kernel.launch(args.args(&mut results)).unwrap();
    results
}

/// Runs the kernel and compares every output and last state with the f64 meaning: |y − y64| ≤ 16·eps·m.
pub fn check(kernel: &Kernel, inputs: &Inputs, dtype: Dtype, context: &str) {
    let args = OwnedArgs::from_inputs(inputs, dtype).unwrap();
    let r = kernel.recurrence();
    let found = run(kernel, &args).to_outputs(r);
    compare(r, &args, &found, dtype.epsilon(), context);
}

/// Compares results with the f64 meaning.
pub fn compare(r: &Recurrence, args: &OwnedArgs, found: &Outputs, eps: f64, context: &str) {
    let (wanted, bound) = eval_with_bound(r, &args.to_inputs(r)).unwrap();
    assert_eq!(found.tensors.len(), r.outputs.len());
    assert_eq!(found.last.len(), r.states.len());
    let sides = [
        (&wanted.tensors, &bound.tensors, &found.tensors),
        (&wanted.last, &bound.last, &found.last),
    ];
    for (wanted, bound, found) in sides {
        for (name, wanted) in wanted {
            let (bound, found) = (&bound[name], &found[name]);
            assert_eq!(found.shape, wanted.shape, "{context}: {name}");
            for (i, &y) in wanted.data.iter().enumerate() {
                let (x, m) = (found.data[i], bound.data[i]);
                assert!(
                    (x - y).abs() <= 16.0 * eps * m,
                    "{context}: {name}[{i}] is {x}, the meaning is {y}, m = {m}"
                );
            }
        }
    }
}
