//! Tensors in and out of files: by name, in every type, whole or not at all.

use super::*;

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
