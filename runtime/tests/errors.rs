//! Every mistake in a launch's arguments is one error that says what was wanted, what was found and what to do;
//! nothing is written then.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{COMPLEX, MAMBA, cpu, recurrence};
use selscan_runtime::{Args, Dtype, Error, Kernel, OwnedArgs, Spec, Tensor, TensorMut, TensorRef};

const B: usize = 2;
const L: usize = 3;
const D: usize = 4;
const N: usize = 5;

/// Good arguments for [`MAMBA`].
struct Data {
    inputs: Vec<(&'static str, Tensor)>,
    out: Tensor,
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(Dtype::F32, shape).unwrap()
}

impl Data {
    fn new() -> Data {
        Data {
            inputs: vec![
                ("u", zeros(&[B, L, D])),
                ("delta", zeros(&[B, L, D])),
                ("a", zeros(&[D, N])),
                ("b", zeros(&[B, L, N])),
                ("c", zeros(&[B, L, N])),
            ],
            out: Tensor::from_f64(Dtype::F32, &[B, L, D], &[7.0; B * L * D]).unwrap(),
        }
    }
    /// Every argument but those named.
    fn args_without<'a>(&'a mut self, names: &[&str]) -> Args<'a> {
        let mut args = Args::new();
        for (name, tensor) in self.inputs.iter().filter(|(n, _)| !names.contains(n)) {
            args = args.input(name, tensor);
        }
        if names.contains(&"out") {
            return args;
        }
        args.output("out", &mut self.out)
    }
}

fn mamba() -> Kernel {
    cpu(1).kernel(recurrence(MAMBA))
}

/// The message of a launch that must fail.
#[track_caller]
fn message(kernel: &Kernel, args: Args<'_>) -> String {
    kernel.launch(args).unwrap_err().to_string()
}

#[test]
fn good_arguments_are_taken() {
    let mut data = Data::new();
    mamba().launch(data.args_without(&[])).unwrap();
    assert_eq!(data.out.to_f64(), [0.0; B * L * D]);
}

#[test]
fn names() {
    let (kernel, mut data) = (mamba(), Data::new());
    let more = zeros(&[B, L, D]);
    let mut last = zeros(&[B, D, N]);
    let names = "`u`, `delta`, `a`, `b`, `c`, `d`, `z`, `delta_bias`, `delta_softplus`";
    assert_eq!(
        message(&kernel, data.args_without(&[]).input("dleta", &more)),
        format!(
            "kernel `selective_scan` has no input `dleta`; did you mean `delta`? (it has {names})"
        )
    );
    assert_eq!(
        message(&kernel, data.args_without(&[]).input("weights", &more)),
        format!("kernel `selective_scan` has no input `weights`; it has {names}")
    );
    assert_eq!(
        message(&kernel, data.args_without(&[]).last("state", &mut last)),
        "kernel `selective_scan` has no last state `state`; it has `h`"
    );
    let mut y = zeros(&[B, L, D]);
    assert_eq!(
        message(&kernel, data.args_without(&["out"]).output("y", &mut y)),
        "kernel `selective_scan` has no output `y`; it has `out`"
    );
    assert_eq!(
        message(&kernel, data.args_without(&["c"])),
        "kernel `selective_scan` needs its input `c: Tensor<B, L, N>`; add `.input(\"c\", …)` to the arguments"
    );
    assert_eq!(
        message(&kernel, data.args_without(&["out"])),
        "kernel `selective_scan` needs its output `out: Tensor<B, L, D>`; add `.output(\"out\", …)` to the arguments"
    );
    assert_eq!(
        message(&kernel, data.args_without(&[]).input("u", &more)),
        "the input `u` was passed twice; pass it once"
    );
    assert_eq!(
        message(&kernel, data.args_without(&[]).flag("z")),
        "`z` of kernel `selective_scan` is a tensor; pass it with `.input(\"z\", …)`"
    );
    assert_eq!(
        message(
            &kernel,
            data.args_without(&[]).input("delta_softplus", &more)
        ),
        "`delta_softplus` of kernel `selective_scan` is a flag; pass it with `.flag(\"delta_softplus\")`"
    );
    let args = data.args_without(&[]).initial("h", &more);
    assert_eq!(
        message(&kernel, args.state_in_place("h", &mut last)),
        "the state `h` was passed twice; pass it once"
    );
    assert_eq!(data.out.to_f64(), [7.0; B * L * D], "nothing is written");
}

#[test]
fn shapes() {
    let (kernel, mut data) = (mamba(), Data::new());
    let flat = zeros(&[B, L * D]);
    let text = message(&kernel, data.args_without(&["u"]).input("u", &flat));
    assert!(
        text.contains("`u` has the shape [2, 12]; its axes are [B, L, D]"),
        "{text}"
    );
    let short = zeros(&[B, L - 1, N]);
    let text = message(&kernel, data.args_without(&["c"]).input("c", &short));
    assert!(
        text.contains("axis L of `c` has the extent 2, but 3 in `u`"),
        "{text}"
    );
    let mut long = zeros(&[B, L + 1, D]);
    let text = message(
        &kernel,
        data.args_without(&["out"]).output("out", &mut long),
    );
    assert!(
        text.contains("axis L of `out` has the extent 4, but 3 in `u`"),
        "{text}"
    );
    let state = zeros(&[B, N, D]);
    let text = message(&kernel, data.args_without(&[]).initial("h", &state));
    assert!(
        text.contains("axis D of `h` has the extent 5, but 4 in `u`"),
        "{text}"
    );
    let (initial, mut last) = (zeros(&[B, D, N]), zeros(&[B, N, D]));
    let args = data.args_without(&[]).initial("h", &initial);
    assert_eq!(
        message(&kernel, args.last("h", &mut last)),
        "the last state `h` has the shape [2, 5, 4], but its axes [B, D, N] make it [2, 4, 5]; pass [2, 4, 5]"
    );
    assert_eq!(
        message(&kernel, data.args_without(&[]).boundaries(&[0; L], &[L])),
        "the boundaries `seq_idx` has the shape [3], but its axes [B, L] make it [2, 3]; pass [2, 3]"
    );
    let text = message(&kernel, data.args_without(&[]).boundaries(&[0; L], &[B, L]));
    assert!(
        text.contains("has 6 elements, but the slice has 3"),
        "{text}"
    );
    assert_eq!(data.out.to_f64(), [7.0; B * L * D], "nothing is written");
}

#[test]
fn complex_tensors_are_pairs() {
    let kernel = cpu(1).kernel(recurrence(COMPLEX));
    let (x, a, mut out) = (zeros(&[B, L, D]), zeros(&[D, 2]), zeros(&[B, L, D, 2]));
    let args = Args::new().input("x", &x).input("a", &a);
    assert_eq!(
        message(&kernel, args.output("out", &mut out)),
        "the input `x` is complex, so its shape ends in a dimension of 2 (re, im), but it is [2, 3, 4]; pass interleaved \
         pairs with the shape [B, L, D, 2]"
    );
}

#[test]
fn types_of_a_state() {
    let (kernel, mut data) = (mamba(), Data::new());
    let initial = Tensor::zeros(Dtype::Bf16, &[B, D, N]).unwrap();
    let mut last = zeros(&[B, D, N]);
    let args = data.args_without(&[]).initial("h", &initial);
    assert_eq!(
        message(&kernel, args.last("h", &mut last)),
        "the last state `h` is f32, but its initial state is bf16; convert one of them"
    );
}

#[test]
fn steps_are_single_and_in_place() {
    let (kernel, mut data) = (mamba(), Data::new());
    let error = kernel.step(data.args_without(&[])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel `selective_scan` needs its state `h: State<B, D, N>`; add `.state_in_place(\"h\", …)` to the arguments"
    );
    let mut h = zeros(&[B, D, N]);
    let error = kernel.step(data.args_without(&[]).state_in_place("h", &mut h));
    assert_eq!(
        error.unwrap_err().to_string(),
        "a step of kernel `selective_scan` has an extent of 1 on the time axis L, but `out` has 3; use `launch`"
    );
}

#[test]
fn schedules_that_do_not_fit_say_why() {
    let mut data = Data::new();
    let schedule = "sequential order=registers lanes=3 block=1";
    let kernel = mamba().with_schedule(schedule.parse().unwrap());
    let error = kernel.launch(data.args_without(&[])).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert!(error.to_string().contains("lanes"), "{error}");
}

/// Sizes that do not fit in 64 bits are errors wherever they come in.
#[test]
fn huge_extents() {
    let kernel = mamba();
    assert!(kernel.results(&OwnedArgs::default()).is_err());
    let half = usize::MAX / 2;
    let extents = kernel.extents(&[("B", half), ("L", half), ("D", 4), ("N", 4)]);
    let spec = Spec::new(kernel.recurrence(), Dtype::F32);
    let error = kernel.compile(&spec, &extents.unwrap()).map(|_| ());
    assert!(matches!(error, Err(Error::Refused(_))), "{error:?}");
    let shape = [0, usize::MAX, 4];
    let empty = TensorRef::new::<f32>(&[], &shape).unwrap();
    let a = zeros(&[4, 4]);
    let mut nothing: [f32; 0] = [];
    let args = Args::new()
        .input("u", empty.clone())
        .input("delta", empty.clone())
        .input("a", &a)
        .input("b", empty.clone())
        .input("c", empty)
        .output("out", TensorMut::new(&mut nothing, &shape).unwrap());
    let text = message(&kernel, args);
    assert!(
        text.contains("more elements than memory can address"),
        "{text}"
    );
}

/// The names of axes, where extents are given by hand.
#[test]
fn axes() {
    let kernel = mamba();
    let error = kernel
        .extents(&[("B", 1), ("L", 100), ("D", 1)])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel `selective_scan` needs its axis `N: usize`; add `(\"N\", …)` to the extents"
    );
    let error = kernel.extents(&[("B", 1), ("T", 100)]).unwrap_err();
    let wanted = "kernel `selective_scan` has no axis `T`; did you mean `B`?";
    assert!(error.to_string().starts_with(wanted), "{error}");
}
