//! The command line as a user meets it: the binary, its files, its messages and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod commands;
mod files;
mod mistakes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

/// The kernel of the README.
const KERNEL: &str = "\
/// Mamba's selective scan (Gu & Dao 2023, Algorithm 2).
#[ssm_kernel]
fn scan(
    u: Tensor<B, L, D>, delta: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
    z: Option<Tensor<B, L, D>>, delta_softplus: Flag, h: State<B, D, N>,
) -> Tensor<B, L, D> {
    let delta = given(delta_softplus, softplus(delta), delta);
    let (a_bar, b_bar) = discretize::mamba(delta, a, b);
    h = a_bar * h + b_bar * u;
    let y = sum::<N>(c * h);
    given(z, y * silu(z), y)
}
";

/// A folder of a user's, with the cache of tuned schedules in it.
struct User {
    folder: tempfile::TempDir,
}

struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl User {
    fn new() -> User {
        User {
            folder: tempfile::tempdir().unwrap(),
        }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }
    /// Runs `selscan` in the folder.
    fn selscan(&self, args: &[&str]) -> Done {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(env!("CARGO_BIN_EXE_selscan"))
            .args(args)
            .current_dir(self.folder.path())
            .env("SELSCAN_CACHE_DIR", self.path("cache"))
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        Done {
            code: status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
    /// Runs it with success.
    fn ok(&self, args: &[&str]) -> String {
        let done = self.selscan(args);
        assert_eq!(done.code, 0, "{args:?}\n{}{}", done.stdout, done.stderr);
        assert_eq!(
            done.stderr, "",
            "{args:?}: nothing but results where nobody watches"
        );
        done.stdout
    }
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).expect("one JSON document")
    }
    fn tensors(&self, name: &str) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
        let bytes = std::fs::read(self.path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let widen = |view: &TensorView<'_>| -> Vec<f64> {
            let data = view.data();
            match view.dtype() {
                Dtype::F32 => data
                    .chunks(4)
                    .map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap())))
                    .collect(),
                Dtype::F64 => data
                    .chunks(8)
                    .map(|c| f64::from_le_bytes(c.try_into().unwrap()))
                    .collect(),
                Dtype::BF16 => data
                    .chunks(2)
                    .map(|c| half::bf16::from_le_bytes(c.try_into().unwrap()).to_f64())
                    .collect(),
                other => panic!("{other:?}"),
            }
        };
        file.iter()
            .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), widen(&view))))
            .collect()
    }
}

/// f32 tensors in a file.
fn save(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, x)| x.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap(),
        )
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn wave(count: usize, phase: f32, low: f32, high: f32) -> Vec<f32> {
    let unit = |i: usize| (i as f32 * 0.731 + phase).sin() * 0.5 + 0.5;
    (0..count).map(|i| low + (high - low) * unit(i)).collect()
}

/// Inputs of [`KERNEL`], steps `from..to` of 40.
fn inputs(from: usize, to: usize) -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
    let (d, n, l) = (5, 3, 40);
    let cut = |x: Vec<f32>, width: usize| x[from * width..to * width].to_vec();
    let steps = to - from;
    vec![
        ("u", vec![1, steps, d], cut(wave(l * d, 0.1, -1.0, 1.0), d)),
        (
            "delta",
            vec![1, steps, d],
            cut(wave(l * d, 0.2, 0.1, 1.0), d),
        ),
        ("a", vec![d, n], wave(d * n, 0.3, -1.0, -0.1)),
        ("b", vec![1, steps, n], cut(wave(l * n, 0.4, -1.0, 1.0), n)),
        ("c", vec![1, steps, n], cut(wave(l * n, 0.5, -1.0, 1.0), n)),
        ("z", vec![1, steps, d], cut(wave(l * d, 0.6, -1.0, 1.0), d)),
    ]
}

fn save_all(path: &Path, tensors: &[(&'static str, Vec<usize>, Vec<f32>)]) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(n, s, x)| (*n, s.as_slice(), x.clone()))
        .collect();
    save(path, &tensors);
}

fn near(x: &[f64], y: &[f64], within: f64) {
    assert_eq!(x.len(), y.len());
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        assert!(
            (x - y).abs() <= within * (1.0 + y.abs()),
            "{i}: {x} is not {y}"
        );
    }
}
