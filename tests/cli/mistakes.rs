//! What goes wrong: exit codes, messages, places in the text; nothing is lost.

use super::*;

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
            vec!["run", "scan.rs", "--device", "gpu"],
            &["`gpu` is no device", "`cuda:N`"],
        ),
        (
            vec!["run", "scan.rs", "--device", "cuda:0", "--threads", "2"],
            &["--threads is about the CPU"],
        ),
        // Without a driver, or with fewer GPUs.
        (
            vec!["run", "scan.rs", "--device", "cuda:4000000"],
            &["there is no"],
        ),
        (
            vec!["selftest", "--filter", "no such model"],
            &["no model", "selscan list"],
        ),
        (
            vec!["selftest", "--large", "--device", "cpu"],
            &["needs a GPU", "--device cuda:0"],
        ),
        (
            vec!["explain", "scan.rs", "--stage", "ptx"],
            &["recurrence", "asm"],
        ),
        (
            vec!["explain", "scan.rs", "--grad=w"],
            &["no input or state `w`", "`delta`"],
        ),
        (
            vec!["explain", "scan.rs", "--grad", "--stage", "asm"],
            &["recurrence, scan, plan, loops and cuda"],
        ),
        (
            vec!["bench", "--filter", "no such model"],
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
