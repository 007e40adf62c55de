//! What each command does and says.

use super::*;

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
fn explain_shows_gradients_as_math() {
    let user = User::new();
    user.write("scan.rs", KERNEL);
    let page = user.ok(&["explain", "scan.rs", "--grad"]);
    for part in [
        "fn scan_grad(",
        "#[reverse] d_h: State<",
        "d_a = d_a + ",
        "the gradient by the last h",
        "the gradient by the initial h",
        "before each step of the forward run",
        "d_h: selective, diagonal",
        "computed:",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let json = user.json(&["explain", "scan.rs", "--grad"]);
    assert_eq!(json["states"][0]["state"], "d_h");
    assert!(json["roles"].as_array().unwrap().len() > 6, "{json}");
    // Only what is asked for; an adjoint is affine where the kernel is not.
    let gru = user.ok(&["explain", "gru", "--grad=h", "--stage", "scan"]);
    assert!(gru.contains("dense") && !gru.contains("d_w_r"), "{gru}");
    let text = user.ok(&["explain", "gru", "--grad=x", "--stage", "recurrence"]);
    assert!(text.contains("let d_x = "), "{text}");
    // The other stages are those of a plan for the machine; the GPU's code is there without a GPU.
    for (stage, part) in [
        ("plan", "pass scan_grad"),
        ("loops", "proc scan_grad {"),
        ("cuda", "__global__"),
    ] {
        let text = user.ok(&["explain", "scan.rs", "--grad", "--stage", stage]);
        assert!(text.contains(part), "{stage}: {text}");
    }
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
fn a_device_is_tested_model_by_model() {
    let user = User::new();
    let small = [
        "selftest", "--quick", "--device", "cpu", "--filter", "mamba3_",
    ];
    let text = user.ok(&small);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("selftest on cpu ("), "{text}");
    assert!(lines[1].starts_with("mamba3_siso  right"), "{text}");
    assert!(lines[2].starts_with("mamba3_mimo  right"), "{text}");
    assert!(lines[3].starts_with("2 of 2 models right on cpu"), "{text}");
    let json = user.json(&small);
    assert_eq!(json["models"].as_array().unwrap().len(), 2);
    assert_eq!(json["models"][0]["wrong"], serde_json::json!([]));
    assert!(json["numbers"].as_u64().unwrap() > 1000);

    let gradients = [
        "selftest",
        "--gradients",
        "--quick",
        "--device",
        "cpu",
        "--filter",
        "hgrn",
    ];
    let json = user.json(&gradients);
    assert_eq!(json["models"][0]["wrong"], serde_json::json!([]));
    assert!(json["numbers"].as_u64().unwrap() > 1000);
    assert!(json["worst_eps_m"].as_f64().unwrap() > 0.0);
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
    let files = ["--report", "tuned.json", "--plot", "tuned.svg"];
    let text = user.ok(&[&["tune"], &shape[..], &files].concat());
    for part in [
        "remembered in",
        "of best",
        "measured: tuned.json",
        "drawn: tuned.svg",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let report = std::fs::read_to_string(user.path("tuned.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let right = report["trials"].as_array().unwrap().iter();
    let right = right.filter(|t| seconds(t).is_some()).count();
    let svg = std::fs::read_to_string(user.path("tuned.svg")).unwrap();
    assert_eq!(svg.matches("<title>").count(), right);
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
        "SELSCAN_NVRTC",
    ] {
        assert!(help.contains(part), "{help}");
    }
    for command in ["run", "explain", "tune", "selftest"] {
        assert!(
            user.ok(&[command, "--help"]).contains("Examples:"),
            "{command}"
        );
    }
    assert!(user.ok(&["--version"]).starts_with("selscan "));
}
