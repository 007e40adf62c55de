//! The command line as a user meets it: the binary, its files, its messages and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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

#[test]
fn the_main_job_is_checked_and_timed() {
    let user = User::new();
    let small = ["run", "--shape", "L=70,D=20", "--threads", "2"];
    let text = user.ok(&small);
    for part in [
        "selective_scan",
        "L=70 D=20 N=16",
        "all 1720 numbers",
        "right",
        "plain scalar Rust",
        "sequential",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let json = user.json(&small);
    assert_eq!(json["check"]["wrong"], 0);
    assert_eq!(json["points"], 70.0 * 20.0 * 16.0);
    let worst = json["check"]["worst_eps_m"].as_f64().unwrap();
    assert!(
        worst > 0.0 && worst <= json["check"]["allowed_eps_m"].as_f64().unwrap(),
        "{worst}"
    );
    let speed = json["speed"].as_array().unwrap();
    assert_eq!(
        speed
            .iter()
            .map(|s| s["threads"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 1, 2]
    );
    for row in speed {
        let ratio = speed[0]["seconds"].as_f64().unwrap() / row["seconds"].as_f64().unwrap();
        assert!((row["ratio"].as_f64().unwrap() / ratio - 1.0).abs() < 1e-9);
    }
}

#[test]
fn files_in_and_out_are_what_the_meaning_gives() {
    let user = User::new();
    user.write("scan.rs", KERNEL);
    save_all(&user.path("x.safetensors"), &inputs(0, 40));
    let run = [
        "run",
        "scan.rs",
        "--input",
        "x.safetensors",
        "--flag",
        "delta_softplus",
    ];
    user.ok(&[&run[..], &["--output", "y.safetensors", "--check", "full"]].concat());
    user.ok(&[&run[..], &["--output", "y64.safetensors", "--eval"]].concat());
    let (y, y64) = (
        user.tensors("y.safetensors"),
        user.tensors("y64.safetensors"),
    );
    assert_eq!(y.keys().collect::<Vec<_>>(), ["last_h", "out"]);
    assert_eq!(
        (&y["out"].0[..], &y["last_h"].0[..]),
        (&[1, 40, 5][..], &[1, 5, 3][..])
    );
    assert!(
        y["out"].1 != y64["out"].1,
        "f32 and f64 differ in the last places"
    );
    for name in ["out", "last_h"] {
        near(&y[name].1, &y64[name].1, 1e-5);
    }
    // Softplus and z are taken: without them the numbers are others.
    user.ok(&[&run[..4], &["--output", "plain.safetensors"]].concat());
    assert!(user.tensors("plain.safetensors")["out"].1 != y["out"].1);

    // Two halves, the second from the first one's last state, under either name.
    save_all(&user.path("first.safetensors"), &inputs(0, 17));
    user.ok(&[
        "run",
        "scan.rs",
        "--input",
        "first.safetensors",
        "--flag",
        "delta_softplus",
        "--output",
        "half.safetensors",
    ]);
    let state: Vec<f32> = user.tensors("half.safetensors")["last_h"]
        .1
        .iter()
        .map(|&x| x as f32)
        .collect();
    for name in ["initial_h", "initial_state"] {
        let mut rest = inputs(17, 40);
        rest.push((name, vec![1, 5, 3], state.clone()));
        save_all(&user.path("rest.safetensors"), &rest);
        user.ok(&[
            "run",
            "scan.rs",
            "--input",
            "rest.safetensors",
            "--flag",
            "delta_softplus",
            "--output",
            "z.safetensors",
        ]);
        let rest = user.tensors("z.safetensors");
        near(&rest["last_h"].1, &y["last_h"].1, 1e-5);
        near(&rest["out"].1, &y["out"].1[17 * 5..], 1e-5);
    }
}

#[test]
fn types_schedules_and_threads_are_as_asked_for() {
    let user = User::new();
    user.write("scan.rs", KERNEL);
    save_all(&user.path("x.safetensors"), &inputs(0, 40));
    user.ok(&[
        "run",
        "scan.rs",
        "--input",
        "x.safetensors",
        "--eval",
        "--output",
        "y64.safetensors",
    ]);
    let wanted = &user.tensors("y64.safetensors")["out"].1;
    for (dtype, within) in [("f64", 1e-13), ("f32", 1e-5), ("bf16", 0.05)] {
        let args = [
            "run",
            "scan.rs",
            "--input",
            "x.safetensors",
            "--dtype",
            dtype,
            "--output",
            "y.safetensors",
        ];
        let schedule = "sequential order=stepped lanes=1 block=1 tile=64 unroll=1";
        let json = user.json(&[&args[..], &["--schedule", schedule, "--threads", "1"]].concat());
        assert_eq!(
            (&json["dtype"], &json["threads"]),
            (&Value::from(dtype), &Value::from(1))
        );
        assert_eq!(json["schedules"][0], schedule);
        near(&user.tensors("y.safetensors")["out"].1, wanted, within);
    }
}

#[test]
fn packed_sequences_complex_tensors_and_upper_case_names() {
    let user = User::new();
    user.write(
        "turn.rs",
        "#[ssm_kernel]\nfn turn(x: Tensor<B, L>, a: Complex<B>, h: ComplexState<B>) -> Tensor<B, L> {\n    h = a * h + x;\n    re(h)\n}\n",
    );
    let idx: Vec<u8> = [0i32, 0, 0, 1, 1]
        .iter()
        .flat_map(|i| i.to_le_bytes())
        .collect();
    let floats = |x: &[f32]| -> Vec<u8> { x.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let (x, a) = (floats(&[1.0, 0.0, 0.0, 1.0, 0.0]), floats(&[0.0, 2.0]));
    let views = [
        ("x", TensorView::new(Dtype::F32, vec![1, 5], &x).unwrap()),
        ("A", TensorView::new(Dtype::F32, vec![1, 2], &a).unwrap()),
        (
            "seq_idx",
            TensorView::new(Dtype::I32, vec![1, 5], &idx).unwrap(),
        ),
        (
            "unrelated",
            TensorView::new(Dtype::F32, vec![1, 5], &x).unwrap(),
        ),
    ];
    user.write(
        "x.safetensors",
        safetensors::serialize(views, None).unwrap(),
    );
    let json = user.json(&[
        "run",
        "turn.rs",
        "--input",
        "x.safetensors",
        "--output",
        "y.safetensors",
        "--check",
        "full",
    ]);
    assert_eq!(json["ignored"], serde_json::json!(["unrelated"]));
    let y = user.tensors("y.safetensors");
    // (2i)² = −4; the second sequence starts from 0.
    assert_eq!(y["out"].1, [1.0, 0.0, -4.0, 1.0, 0.0]);
    assert_eq!(
        (&y["last_h"].0[..], &y["last_h"].1[..]),
        (&[1, 2][..], &[0.0, 2.0][..])
    );
}

#[test]
fn explain_tells_the_story_and_shows_every_stage() {
    let user = User::new();
    user.write("scan.rs", KERNEL);
    let page = user.ok(&["explain", "scan.rs", "--shape", "B=1,L=2048,D=1536,N=16"]);
    for part in [
        "fn scan(",
        "selective, diagonal",
        "discretize",
        "scan",
        "project",
        "fused",
        "schedule: sequential",
        "exp(",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let json = user.json(&["explain", "scan.rs", "--shape", "B=1,L=2048,D=1536,N=16"]);
    // u, delta and z in, y out, over [L, D]; a over [D, N]; b and c over [L, N]; 4 bytes each.
    let fused = 4.0 * (4.0 * 2048.0 * 1536.0 + 1536.0 * 16.0 + 2.0 * 2048.0 * 16.0);
    assert_eq!(json["bytes_fused"], fused);
    assert!(json["bytes_as_written"].as_f64().unwrap() > 10.0 * fused);
    for (stage, part) in [
        ("recurrence", "h = "),
        ("scan", "exp2("),
        ("plan", "lanes"),
        ("loops", "for item in core"),
        ("clif", "function"),
        ("asm", "ret"),
    ] {
        let text = user.ok(&["explain", "scan.rs", "--stage", stage]);
        assert!(text.contains(part), "{stage}\n{text}");
        assert_eq!(
            user.json(&["explain", "scan.rs", "--stage", stage])["text"],
            text.as_str(),
            "{stage}"
        );
    }
    let gru = user.ok(&["explain", "gru"]);
    assert!(gru.contains("not affine"), "{gru}");
}

#[test]
fn the_catalogue_is_listed_and_timed() {
    let user = User::new();
    let json = user.json(&["list"]);
    let models = json["models"].as_array().unwrap();
    assert!(models.len() >= 20, "{}", models.len());
    let scan = models
        .iter()
        .find(|m| m["name"] == "selective_scan")
        .unwrap();
    assert_eq!(scan["class"], "selective, diagonal");
    assert_eq!(
        scan["algorithms"],
        serde_json::json!(["sequential", "chunked"])
    );
    assert!(user.ok(&["list"]).lines().count() == models.len() + 1);

    let json = user.json(&["bench", "--small", "--filter", "HGRN"]);
    let timed = json["models"].as_array().unwrap();
    assert!(!timed.is_empty());
    assert!(timed.iter().all(|m| m["seconds"].as_f64().unwrap() > 0.0));
}

#[test]
fn what_tune_finds_is_used_by_run() {
    let user = User::new();
    user.write(
        "decay.rs",
        "#[ssm_kernel]\nfn decay(x: Tensor<B, L, D>, a: Tensor<D>, h: State<B, D>) -> Tensor<B, L, D> {\n    h = a * h + x;\n    h\n}\n",
    );
    let shape = ["decay.rs", "--shape", "B=1,L=33,D=8", "--threads", "1"];
    let json = user.json(&[&["tune"], &shape[..]].concat());
    assert_eq!(json["stored"], true);
    let trials = json["trials"].as_array().unwrap();
    let seconds = |t: &&Value| t["seconds"].as_f64();
    let best = trials
        .iter()
        .filter(|t| seconds(t).is_some())
        .min_by(|a, b| seconds(a).unwrap().total_cmp(&seconds(b).unwrap()));
    assert_eq!(json["schedules"][0], best.unwrap()["schedule"]);
    assert!(std::fs::read_dir(user.path("cache")).unwrap().count() == 1);
    let run = user.json(&[&["run"], &shape[..]].concat());
    assert_eq!(run["schedules"], json["schedules"]);
    let text = user.ok(&[&["tune"], &shape[..]].concat());
    assert!(
        text.contains("remembered in") && text.contains("of best"),
        "{text}"
    );
}

#[test]
fn a_result_beyond_the_tolerance_is_exit_code_1_and_not_written() {
    let user = User::new();
    // f16 ends at 65504.
    user.write("big.rs", "#[ssm_kernel]\nfn big(x: Tensor<B, L>, h: State<B>) -> Tensor<B, L> {\n    h = h + x;\n    1000 * h\n}\n");
    user.write("y.safetensors", "precious");
    let args = [
        "run",
        "big.rs",
        "--shape",
        "B=1,L=200",
        "--range",
        "x=1..2",
        "--dtype",
        "f16",
    ];
    let done = user.selscan(&[&args[..], &["--output", "y.safetensors"]].concat());
    assert_eq!(done.code, 1, "{}{}", done.stdout, done.stderr);
    assert!(
        done.stderr.contains("differ from the f64 meaning"),
        "{}",
        done.stderr
    );
    assert!(
        done.stdout.contains("WRONG") && done.stdout.contains("not written"),
        "{}",
        done.stdout
    );
    assert_eq!(
        std::fs::read_to_string(user.path("y.safetensors")).unwrap(),
        "precious"
    );
    let json: Value =
        serde_json::from_str(&user.selscan(&[&args[..], &["--json"]].concat()).stdout).unwrap();
    assert!(json["check"]["wrong"].as_u64().unwrap() > 0);
}

#[test]
fn bad_input_is_exit_code_2_and_says_what_to_do() {
    let user = User::new();
    user.write("scan.rs", KERNEL);
    user.write(
        "two.rs",
        KERNEL.to_owned() + &KERNEL.replace("fn scan", "fn other"),
    );
    user.write("none.rs", "fn main() {}\n");
    user.write("text.safetensors", "no tensors");
    save_all(&user.path("x.safetensors"), &inputs(0, 40));
    let mut short = inputs(0, 40);
    short.retain(|(name, ..)| *name != "delta");
    save_all(&user.path("short.safetensors"), &short);
    let mut wrong = inputs(0, 40);
    wrong[2] = ("a", vec![3, 5], wave(15, 0.0, -1.0, 0.0));
    save_all(&user.path("wrong.safetensors"), &wrong);
    let mut flat = inputs(0, 40);
    flat[0] = ("u", vec![200], wave(200, 0.0, -1.0, 0.0));
    save_all(&user.path("flat.safetensors"), &flat);
    let ints: Vec<u8> = vec![0; 40 * 5 * 8];
    let view = [(
        "u",
        TensorView::new(Dtype::I64, vec![1, 40, 5], &ints).unwrap(),
    )];
    user.write(
        "ints.safetensors",
        safetensors::serialize(view, None).unwrap(),
    );

    let run = |input: &'static str| {
        vec![
            "run",
            "scan.rs",
            "--input",
            input,
            "--output",
            "y.safetensors",
        ]
    };
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (
            run("absent.safetensors"),
            &["cannot read absent.safetensors"],
        ),
        (
            run("text.safetensors"),
            &["text.safetensors", "no safetensors file"],
        ),
        (run("short.safetensors"), &["`delta`", "missing"]),
        (run("wrong.safetensors"), &["`a`", "D", "3", "5"]),
        (run("flat.safetensors"), &["`u`", "[200]", "3 extents"]),
        (run("ints.safetensors"), &["`u` is I64", "convert it"]),
        (vec!["run", "absent.rs"], &["cannot read absent.rs"]),
        (
            vec!["run", "selective_skan"],
            &["neither a model nor a file", "selscan list"],
        ),
        (
            vec!["run", "two.rs"],
            &["several kernels", "--kernel", "scan, other"],
        ),
        (
            vec!["run", "two.rs", "--kernel", "third"],
            &["no kernel 'third'", "scan, other"],
        ),
        (
            vec!["run", "scan.rs", "--shape", "Q=3"],
            &["no axis 'Q'", "B, L, D, N"],
        ),
        (vec!["run", "scan.rs", "--shape", "L"], &["AXIS=N"]),
        (
            vec![
                "run",
                "scan.rs",
                "--shape",
                "L=4000000000000,D=4000000000000",
            ],
            &["larger than an address space"],
        ),
        (vec!["run", "scan.rs", "--range", "a=1..x"], &["LOW..HIGH"]),
        (
            vec!["run", "scan.rs", "--range", "q=1..2"],
            &["no input 'q'"],
        ),
        (
            vec!["run", "scan.rs", "--without", "u"],
            &["'u'", "not optional"],
        ),
        (
            vec!["run", "scan.rs", "--dtype", "int8"],
            &["f32, f64, bf16 or f16"],
        ),
        (
            vec!["run", "scan.rs", "--schedule", "fast"],
            &["'fast' is no algorithm"],
        ),
        (
            vec!["run", "scan.rs", "--schedule", "sequential lanes=3"],
            &["lanes"],
        ),
        (
            vec!["run", "scan.rs", "--input", "x.safetensors", "--flag", "u"],
            &["no flag 'u'"],
        ),
        (
            vec![
                "run",
                "scan.rs",
                "--input",
                "x.safetensors",
                "--shape",
                "L=2",
            ],
            &["--shape", "made-up"],
        ),
        (vec!["run", "scan.rs", "--threads", "0"], &["--threads"]),
        (
            vec!["explain", "scan.rs", "--stage", "ptx"],
            &["recurrence", "asm"],
        ),
        (
            vec!["bench", "--filter", "transformer"],
            &["no model", "selscan list"],
        ),
        (vec!["fly"], &["fly"]),
    ];
    for (args, parts) in cases {
        let done = user.selscan(&args);
        assert_eq!(done.code, 2, "{args:?}\n{}{}", done.stdout, done.stderr);
        assert_eq!(done.stdout, "", "{args:?}");
        for part in parts {
            assert!(
                done.stderr.contains(part),
                "{args:?}: no '{part}' in\n{}",
                done.stderr
            );
        }
        let json = user.selscan(&[&args[..], &["--json"]].concat());
        let document: Value = serde_json::from_str(&json.stdout).expect("one JSON document");
        assert_eq!(
            (json.code, &document["exit_code"]),
            (2, &Value::from(2)),
            "{args:?}"
        );
    }
    assert!(!user.path("y.safetensors").exists());
}

#[test]
fn mistakes_in_a_kernel_are_shown_where_they_are() {
    let user = User::new();
    user.write(
        "scan.rs",
        KERNEL
            .replace("softplus(delta)", "softmax(delta)")
            .replace("c * h", "c * g"),
    );
    let done = user.selscan(&["run", "scan.rs"]);
    assert_eq!(done.code, 2);
    for part in [
        "scan.rs:7:39",
        "softmax(delta)",
        "^^^^^^^",
        "scan.rs:10",
        "help:",
    ] {
        assert!(
            done.stderr.contains(part),
            "no '{part}' in\n{}",
            done.stderr
        );
    }
    let json = user.selscan(&["explain", "scan.rs", "--json"]);
    let document: Value = serde_json::from_str(&json.stdout).unwrap();
    let all = document["error"]["diagnostics"].as_array().unwrap();
    assert_eq!(
        all.iter()
            .map(|d| d["line"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [7, 10]
    );

    user.write(
        "loop.rs",
        "#[ssm_kernel]\nfn f(x: Tensor<L>) -> Tensor<L> { for i in 0..3 { } x }",
    );
    let done = user.selscan(&["explain", "loop.rs"]);
    assert!(
        done.code == 2 && done.stderr.contains("loop.rs:2:"),
        "{}",
        done.stderr
    );
}

#[test]
fn an_output_appears_whole_or_not_at_all() {
    let user = User::new();
    user.write("scan.rs", KERNEL);
    let mut short = inputs(0, 40);
    short.retain(|(name, ..)| *name != "delta");
    save_all(&user.path("short.safetensors"), &short);
    save_all(&user.path("x.safetensors"), &inputs(0, 40));
    user.write("y.safetensors", "precious");
    let run = |input: &str, output: &str| {
        user.selscan(&["run", "scan.rs", "--input", input, "--output", output])
    };
    assert_eq!(run("short.safetensors", "y.safetensors").code, 2);
    assert_eq!(
        std::fs::read_to_string(user.path("y.safetensors")).unwrap(),
        "precious"
    );

    std::fs::create_dir(user.path("folder")).unwrap();
    for output in ["absent/y.safetensors", "folder", "/dev/null"] {
        let done = run("x.safetensors", output);
        assert_eq!(done.code, 2, "{output}\n{}", done.stderr);
        assert!(
            done.stderr.contains("cannot write") && done.stderr.contains(output),
            "{}",
            done.stderr
        );
    }

    // The input may be the output; nothing else is left behind.
    std::fs::remove_file(user.path("y.safetensors")).unwrap();
    assert_eq!(run("x.safetensors", "x.safetensors").code, 0);
    assert!(user.tensors("x.safetensors").contains_key("last_h"));
    let mut names: Vec<String> = std::fs::read_dir(user.folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["folder", "scan.rs", "short.safetensors", "x.safetensors"]
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| {
            std::fs::metadata(user.path(name))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(mode("x.safetensors"), mode("scan.rs"), "as any new file");
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let user = User::new();
    let help = user.ok(&["--help"]);
    for part in [
        "Examples:",
        "selscan run",
        "Exit codes:",
        "SELSCAN_CACHE_DIR",
    ] {
        assert!(help.contains(part), "{help}");
    }
    for command in ["run", "explain", "tune"] {
        assert!(
            user.ok(&[command, "--help"]).contains("Examples:"),
            "{command}"
        );
    }
    assert!(user.ok(&["--version"]).starts_with("selscan "));
}
