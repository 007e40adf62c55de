//! Calls of the selective scan and their data. In: a shape, a type, a layout. Out: [`Case`], whose arguments are random,
//! seeded and never zeros: A = −(1 … N), steps softplus(delta + delta_bias) log-uniform between 0.001 and 0.1, the rest
//! normal. The same rules as in `mamba.py`, not the same numbers.

use std::f64::consts::TAU;
use std::fmt;
use std::sync::LazyLock;

use half::{bf16, f16};
use selscan_runtime::{Dtype, Element, Error, OwnedArgs, Tensor};

/// How u, delta, z and the output lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// (B, D, L), B and C as (B, 1, N, L): mamba_ssm's.
    Bdl,
    /// (B, L, D), B and C as (B, L, N): channels last.
    Bld,
}

/// One shape in one type and layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    pub table: &'static str,
    pub dtype: Dtype,
    pub layout: Layout,
    pub b: usize,
    pub l: usize,
    pub d: usize,
    pub n: usize,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Bdl => "bdl",
            Layout::Bld => "bld",
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            dtype, b, l, d, n, ..
        } = self;
        write!(f, "{dtype} B{b} L{l} D{d} N{n}")
    }
}

impl Case {
    /// The model for the layout.
    pub fn model(&self) -> &'static str {
        match self.layout {
            Layout::Bdl => "selective_scan_bdl",
            Layout::Bld => "selective_scan",
        }
    }

    /// The shape of u, delta, z and the output.
    pub fn plane(&self) -> [usize; 3] {
        match self.layout {
            Layout::Bdl => [self.b, self.d, self.l],
            Layout::Bld => [self.b, self.l, self.d],
        }
    }

    /// The shape of B and C.
    pub fn rows(&self) -> Vec<usize> {
        match self.layout {
            Layout::Bdl => vec![self.b, 1, self.n, self.l],
            Layout::Bld => vec![self.b, self.l, self.n],
        }
    }

    /// Where a plane has a sequence's step of a channel.
    pub fn in_plane(&self, sequence: usize, step: usize, channel: usize) -> usize {
        match self.layout {
            Layout::Bdl => (sequence * self.d + channel) * self.l + step,
            Layout::Bld => (sequence * self.l + step) * self.d + channel,
        }
    }

    /// Where B and C have a sequence's step of a state.
    pub fn in_rows(&self, sequence: usize, step: usize, state: usize) -> usize {
        match self.layout {
            Layout::Bdl => (sequence * self.n + state) * self.l + step,
            Layout::Bld => (sequence * self.l + step) * self.n + state,
        }
    }

    /// Random arguments: of each `seed` others.
    pub fn arguments(&self, seed: u64) -> Result<OwnedArgs, Error> {
        let Case { l, d, n, dtype, .. } = *self;
        let mut args = OwnedArgs {
            output: Some(dtype),
            ..OwnedArgs::default()
        };
        args.flags.insert("delta_softplus".to_owned());
        let draw = |_: usize, unit: usize| TABLES.steps[unit];
        let bias = tensor(Dtype::F32, &[d], mix(seed, 0), &Values::At(&draw))?;
        let biases = bias.as_slice::<f32>().unwrap_or_default();
        let layout = self.layout;
        let delta = |at: usize, unit: usize| {
            let channel = match layout {
                Layout::Bdl => at / l % d,
                Layout::Bld => at % d,
            };
            TABLES.steps[unit] - biases[channel]
        };
        let plane = self.plane();
        let delta = tensor(dtype, &plane, mix(seed, 1), &Values::At(&delta))?;
        args.inputs.insert("delta".to_owned(), delta);
        args.inputs.insert("delta_bias".to_owned(), bias);
        let mut a = Tensor::zeros(Dtype::F32, &[d, n])?;
        let elements = a.as_mut_slice::<f32>().unwrap_or_default();
        for (i, x) in elements.iter_mut().enumerate() {
            *x = -((i % n + 1) as f32);
        }
        args.inputs.insert("a".to_owned(), a);
        for (i, (name, dtype, shape)) in [
            ("u", dtype, plane.to_vec()),
            ("z", dtype, plane.to_vec()),
            ("b", dtype, self.rows()),
            ("c", dtype, self.rows()),
            ("d", Dtype::F32, vec![d]),
        ]
        .into_iter()
        .enumerate()
        {
            let tensor = normal(dtype, &shape, mix(seed, 2 + i as u64))?;
            args.inputs.insert(name.to_owned(), tensor);
        }
        Ok(args)
    }

    /// The same for one step of decoding: with a state of its own type.
    pub fn step_arguments(&self, state: Dtype, seed: u64) -> Result<OwnedArgs, Error> {
        let mut args = self.arguments(seed)?;
        let h = normal(state, &[self.b, self.d, self.n], mix(seed, 7))?;
        args.initial.insert("h".to_owned(), h);
        Ok(args)
    }
}

/// A tensor of normal numbers.
pub fn normal(dtype: Dtype, shape: &[usize], seed: u64) -> Result<Tensor, Error> {
    tensor(dtype, shape, seed, &Values::Normal)
}

/// Draws: a random 16-bit number names one of them.
struct Tables {
    normal: Vec<f32>,
    /// softplus⁻¹ of steps.
    steps: Vec<f32>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let count = 1 << 16;
    let unit = |i: u64| (mix(20_240_601, i) >> 11) as f64 / (1u64 << 53) as f64;
    // Box & Muller 1958.
    let normal = |i: u64| (-2.0 * (1.0 - unit(2 * i)).ln()).sqrt() * (TAU * unit(2 * i + 1)).cos();
    let step = |i: u64| {
        let step = 10f64.powf(-3.0 + 2.0 * i as f64 / (count - 1) as f64);
        step.exp_m1().ln()
    };
    Tables {
        normal: (0..count).map(|i| normal(i) as f32).collect(),
        steps: (0..count).map(|i| step(i) as f32).collect(),
    }
});

/// A number of 64 random bits for each pair (SplitMix64; Steele, Lea & Flood 2014).
fn mix(seed: u64, i: u64) -> u64 {
    let mut x = seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What the elements of a tensor are drawn from, by 16 random bits.
enum Values<'a> {
    /// Of the table.
    Normal,
    /// Of the place and the bits.
    At(&'a (dyn Fn(usize, usize) -> f32 + Sync)),
}

fn tensor(dtype: Dtype, shape: &[usize], seed: u64, values: &Values<'_>) -> Result<Tensor, Error> {
    let mut tensor = Tensor::zeros(dtype, shape)?;
    match dtype {
        Dtype::F32 => typed::<f32>(&mut tensor, seed, values),
        Dtype::F64 => typed::<f64>(&mut tensor, seed, values),
        Dtype::Bf16 => typed::<bf16>(&mut tensor, seed, values),
        Dtype::F16 => typed::<f16>(&mut tensor, seed, values),
    }
    Ok(tensor)
}

fn typed<T: Element>(tensor: &mut Tensor, seed: u64, values: &Values<'_>) {
    let round = |x: f32| T::from_f64(f64::from(x));
    let all = tensor.as_mut_slice::<T>().unwrap_or_default();
    match values {
        Values::Normal => {
            let rounded: Vec<T> = TABLES.normal.iter().map(|&x| round(x)).collect();
            fill(all, seed, &|_, unit| rounded[unit]);
        }
        Values::At(value) => fill(all, seed, &|at, unit| round(value(at, unit))),
    }
}

/// On all cores: the largest tensor here has 2^30 elements.
fn fill<T: Element>(all: &mut [T], seed: u64, value: &(impl Fn(usize, usize) -> T + Sync)) {
    let threads = match all.len() {
        0..65_536 => 1,
        _ => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let part = all.len().div_ceil(threads).next_multiple_of(4).max(4);
    std::thread::scope(|scope| {
        for (p, own) in all.chunks_mut(part).enumerate() {
            scope.spawn(move || {
                for (q, four) in own.chunks_mut(4).enumerate() {
                    let at = p * part + 4 * q;
                    let bits = mix(seed, at as u64 / 4);
                    for (i, x) in four.iter_mut().enumerate() {
                        *x = value(at + i, usize::from((bits >> (16 * i)) as u16));
                    }
                }
            });
        }
    });
}
