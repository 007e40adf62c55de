//! The GPU: memory, streams, graphs, compiled code on disk, and what is said where something is missing or misplaced.
//!
//! Without a GPU the tests that need one say so, once, and pass. What kernels compute is tested model by model by
//! `selscan selftest`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use common::{BOTH_WAYS, COMPLEX, MAMBA, Random, compare, cpu, inputs, recurrence};
use selscan_runtime::{
    Args, Cuda, CudaOptions, Device, DeviceTensor, Dtype, Error, Kernel, OwnedArgs, OwnedResults,
    Resident, Schedule, Spec, Store, Tensor, TensorMut, TensorRef, nvrtc,
};

const DECAY: &str = "
#[ssm_kernel]
fn decay(x: Tensor<B, L, D>, a: Tensor<D>, h: State<B, D>) -> Tensor<B, L, D> {
    h = a * h + x;
    h
}";

/// The first GPU, which remembers nothing on disk; if there is none, says so once, past the capture of output.
fn gpu() -> Option<Cuda> {
    gpu_with(Store::none())
}

fn gpu_with(store: Store) -> Option<Cuda> {
    static SAID: Once = Once::new();
    let options = CudaOptions {
        store: Some(store),
        ..CudaOptions::default()
    };
    match Cuda::with_options(options) {
        Ok(cuda) => Some(cuda),
        Err(why) => {
            SAID.call_once(|| {
                let _ = writeln!(std::io::stderr(), "skipped: no GPU to test: {why}");
            });
            None
        }
    }
}

/// The same where kernels can be compiled.
fn compiler() -> Option<Cuda> {
    gpu().filter(|_| nvrtc::available())
}

fn wave(dtype: Dtype, shape: &[usize]) -> Tensor {
    let len = shape.iter().product::<usize>();
    let data: Vec<f64> = (0..len).map(|i| (i as f64 * 0.37).sin()).collect();
    Tensor::from_f64(dtype, shape, &data).unwrap()
}

/// Arguments of a kernel with all sorts of extents.
fn arguments(text: &str, seed: u64) -> OwnedArgs {
    let r = recurrence(text);
    let extents = [("B", 2), ("L", 37), ("D", 70), ("N", 4)];
    OwnedArgs::from_inputs(&inputs(&r, &extents, &mut Random(seed)), Dtype::F32).unwrap()
}

fn right(kernel: &Kernel, args: &OwnedArgs, results: &OwnedResults) {
    let r = kernel.recurrence();
    compare(
        r,
        args,
        &results.to_outputs(r),
        Dtype::F32.epsilon(),
        &r.name,
    );
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_says_what_to_do() {
    let error = Device::open("cuda:4000000").unwrap_err();
    let text = error.to_string();
    match error {
        Error::NoDriver => assert!(
            text.contains("install NVIDIA's driver") && text.contains("`--device cpu`"),
            "{text}"
        ),
        Error::NoGpu { .. } => {
            assert!(text.starts_with("there is no GPU cuda:4000000; "), "{text}")
        }
        Error::OldDriver { .. } => assert!(text.contains("update NVIDIA's driver"), "{text}"),
        other => panic!("{other}"),
    }
}

#[test]
fn tensors_on_a_gpu_are_not_for_a_kernel_on_the_cpu() {
    let kernel = cpu(1).kernel(recurrence(DECAY));
    let a = [0.5f32; 3];
    let mut out = [0f32; 6];
    // SAFETY: the launch is refused before anything is read.
    let x =
        unsafe { TensorRef::from_device_ptr(0x7f00_0000_0000, Dtype::F32, &[1, 2, 3]) }.unwrap();
    let args = Args::new()
        .input("x", x)
        .input("a", TensorRef::new(&a, &[3]).unwrap())
        .output("out", TensorMut::new(&mut out, &[1, 2, 3]).unwrap());
    assert_eq!(
        kernel.launch(args).unwrap_err().to_string(),
        "kernel `decay` runs on cpu, but the input `x` is at a device pointer; copy it to the host \
         (`DeviceTensor::to_tensor`), or make the kernel on that GPU"
    );
}

#[test]
fn rows_are_repeated_and_come_back() {
    let Some(cuda) = gpu() else { return };
    let few = wave(Dtype::Bf16, &[3, 5]);
    for rows in [3, 4, 6, 100] {
        let mut many = DeviceTensor::zeros(&cuda, Dtype::Bf16, &[rows, 5]).unwrap();
        many.repeat_from(&few).unwrap();
        let wanted: Vec<f64> = few.to_f64().into_iter().cycle().take(5 * rows).collect();
        assert_eq!(many.to_tensor().unwrap().to_f64(), wanted);
        let last = many.rows(rows - 2..rows).unwrap();
        assert_eq!(last.shape(), [2, 5]);
        assert_eq!(last.to_f64(), wanted[5 * (rows - 2)..]);
        assert!(many.rows(1..rows + 1).is_err());
    }
    let mut other = DeviceTensor::zeros(&cuda, Dtype::Bf16, &[9, 4]).unwrap();
    assert!(other.repeat_from(&few).is_err());
    let mut short = DeviceTensor::zeros(&cuda, Dtype::Bf16, &[2, 5]).unwrap();
    assert!(short.repeat_from(&few).is_err());
}

#[test]
fn tensors_go_up_and_down_and_are_filled() {
    let Some(cuda) = gpu() else { return };
    for dtype in Dtype::ALL {
        for shape in [&[][..], &[3, 5], &[0, 4], &[1, 70_001]] {
            let host = wave(dtype, shape);
            let mut tensor = DeviceTensor::from_tensor(&cuda, &host).unwrap();
            assert_eq!(
                (tensor.dtype(), tensor.shape(), tensor.len()),
                (dtype, shape, host.len())
            );
            assert_eq!(tensor.to_tensor().unwrap().to_f64(), host.to_f64());
            let copy = tensor.copy().unwrap();
            for value in [0.0, 1.5, 0.1, -1e-3] {
                tensor.fill(value).unwrap();
                let wanted = Tensor::from_f64(dtype, &[], &[value]).unwrap().to_f64()[0];
                assert_eq!(
                    tensor.to_tensor().unwrap().to_f64(),
                    vec![wanted; host.len()],
                    "{dtype} {value}"
                );
            }
            assert_eq!(copy.to_tensor().unwrap().to_f64(), host.to_f64());
            tensor.poison().unwrap();
            assert!(
                tensor
                    .to_tensor()
                    .unwrap()
                    .to_f64()
                    .iter()
                    .all(|x| x.is_nan())
            );
            tensor.copy_from(&host).unwrap();
            assert_eq!(tensor.to_tensor().unwrap().to_f64(), host.to_f64());
            tensor.poison().unwrap();
            tensor.copy_from_device(&copy).unwrap();
            assert_eq!(tensor.to_tensor().unwrap().to_f64(), host.to_f64());
        }
    }
    let zeros = DeviceTensor::zeros(&cuda, Dtype::F64, &[1000]).unwrap();
    assert_eq!(zeros.to_tensor().unwrap().to_f64(), vec![0.0; 1000]);
    let mut one = DeviceTensor::from_slice(&cuda, &[1f32], &[1]).unwrap();
    assert!(one.copy_from(&wave(Dtype::F32, &[2])).is_err());
    assert!(one.copy_from(&wave(Dtype::F64, &[1])).is_err());
    assert!(one.copy_from_device(&zeros).is_err());
    let error = DeviceTensor::zeros(&cuda, Dtype::F32, &[1 << 45]).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::DeviceMemory { bytes, .. } if bytes == 4 << 45),
        "{text}"
    );
    assert!(text.contains("are free); split the batch"), "{text}");
}

#[test]
fn moments_of_a_stream() {
    let Some(cuda) = gpu() else { return };
    let mut tensor = DeviceTensor::zeros(&cuda, Dtype::F32, &[1 << 20]).unwrap();
    let before = cuda.event().unwrap();
    (0..10).for_each(|_| tensor.fill(1.0).unwrap());
    let after = cuda.event().unwrap();
    let seconds = after.seconds_since(&before).unwrap();
    assert!((0.0..1.0).contains(&seconds), "{seconds}");
}

#[test]
fn tensors_must_be_together_aligned_and_apart() {
    let Some(cuda) = gpu() else { return };
    let kernel = cuda.kernel(recurrence(DECAY));
    let host = wave(Dtype::F32, &[1, 2, 8]);
    let x = DeviceTensor::from_tensor(&cuda, &host).unwrap();
    let a = DeviceTensor::from_tensor(&cuda, &wave(Dtype::F32, &[8])).unwrap();
    let mut y = Tensor::zeros(Dtype::F32, &[1, 2, 8]).unwrap();
    let mut on_gpu = DeviceTensor::zeros(&cuda, Dtype::F32, &[1, 2, 8]).unwrap();
    let say = |args: Args<'_>| kernel.launch(args).unwrap_err().to_string();
    let said = say(Args::new()
        .input("x", &host)
        .input("a", &a)
        .output("out", &mut y));
    assert_eq!(
        said,
        "kernel `decay` runs on cuda:0, but the input `x` is in the host's memory, the output `out` is in the host's \
         memory; copy it to the GPU (`DeviceTensor::from_tensor`), or pass every tensor from the host's memory"
    );
    // SAFETY: both launches are refused before anything is read.
    let (odd, inside) = unsafe {
        (
            TensorRef::from_device_ptr(a.device_ptr() + 4, Dtype::F32, &[8]).unwrap(),
            TensorMut::from_device_ptr(x.device_ptr() + 16, Dtype::F32, &[1, 2, 8]).unwrap(),
        )
    };
    let said = say(Args::new()
        .input("x", &x)
        .input("a", odd)
        .output("out", &mut on_gpu));
    assert!(
        said.starts_with("the input `a` starts at 0x") && said.contains("16 bytes"),
        "{said}"
    );
    let said = say(Args::new()
        .input("x", &x)
        .input("a", &a)
        .output("out", inside));
    assert!(
        said.starts_with("the output `out` lies in the memory of the input `x`"),
        "{said}"
    );
}

#[test]
fn no_steps_leave_the_initial_state_on_the_gpu() {
    let Some(cuda) = gpu() else { return };
    let kernel = cuda.kernel(recurrence(DECAY));
    let x = DeviceTensor::zeros(&cuda, Dtype::F32, &[2, 0, 8]).unwrap();
    let a = DeviceTensor::zeros(&cuda, Dtype::F32, &[8]).unwrap();
    let mut y = DeviceTensor::zeros(&cuda, Dtype::F32, &[2, 0, 8]).unwrap();
    let before = wave(Dtype::F32, &[2, 8]);
    let initial = DeviceTensor::from_tensor(&cuda, &before).unwrap();
    let mut last = DeviceTensor::zeros(&cuda, Dtype::F32, &[2, 8]).unwrap();
    let args = Args::new()
        .input("x", &x)
        .input("a", &a)
        .output("out", &mut y);
    kernel
        .launch(args.initial("h", &initial).last("h", &mut last))
        .unwrap();
    assert_eq!(last.to_tensor().unwrap().to_f64(), before.to_f64());
    last.poison().unwrap();
    let args = Args::new()
        .input("x", &x)
        .input("a", &a)
        .output("out", &mut y);
    kernel.launch(args.last("h", &mut last)).unwrap();
    assert_eq!(last.to_tensor().unwrap().to_f64(), vec![0.0; 16]);
}

#[test]
fn launches_over_host_and_device_tensors_give_the_same() {
    let Some(cuda) = compiler() else { return };
    for (seed, text) in [MAMBA, BOTH_WAYS, COMPLEX].into_iter().enumerate() {
        for seed in [seed as u64, seed as u64 + 10, seed as u64 + 20] {
            let kernel = cuda.kernel(recurrence(text));
            let args = arguments(text, seed);
            let on_host = kernel.run(&args).unwrap();
            right(&kernel, &args, &on_host);
            let mut resident = Resident::past_cache(&kernel, &args).unwrap();
            for _ in 0..3 {
                resident.poison().unwrap();
                resident.launch(&kernel).unwrap();
                right(&kernel, &args, &resident.results().unwrap());
            }
            assert!(resident.seconds(&kernel, 3, 1.0).unwrap() > 0.0);
        }
    }
}

/// Threads share the stream and the memory of its launches; each launch has them to itself.
#[test]
fn launches_from_many_threads() {
    let Some(cuda) = compiler() else { return };
    let schedule: Option<Schedule> = chunked(&cuda);
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let (cuda, schedule) = (&cuda, &schedule);
            scope.spawn(move || {
                let kernel = cuda.kernel(recurrence(DECAY));
                let kernel = schedule.map_or(kernel.clone(), |s| kernel.with_schedule(s));
                let r = recurrence(DECAY);
                let extents = [("B", 3), ("L", 300 + seed as usize), ("D", 70)];
                let args =
                    OwnedArgs::from_inputs(&inputs(&r, &extents, &mut Random(seed)), Dtype::F32)
                        .unwrap();
                let mut resident = Resident::new(&kernel, &args).unwrap();
                for _ in 0..20 {
                    resident.poison().unwrap();
                    resident.launch(&kernel).unwrap();
                    right(&kernel, &args, &resident.results().unwrap());
                }
            });
        }
    });
}

/// A schedule of several passes, with memory between them.
fn chunked(cuda: &Cuda) -> Option<Schedule> {
    let r = recurrence(DECAY);
    let kernel = cuda.kernel(r.clone());
    let spec = Spec::new(&r, Dtype::F32);
    let extents = kernel.extents(&[("B", 1), ("L", 4096), ("D", 64)]).unwrap();
    let scans = kernel.scans(&spec).unwrap();
    let all = selscan_codegen::candidates(&scans[0], &extents, &spec.options(&r), cuda.target());
    let has_memory = |s: &Schedule| {
        let plans = kernel.with_schedule(*s).plan(&spec, &extents);
        plans.is_ok_and(|p| !p[0].workspaces.is_empty())
    };
    all.into_iter().find(has_memory)
}

/// The default stream waits for others, so it can't be used while one of them is recorded.
static DEFAULT_STREAM: Mutex<()> = Mutex::new(());

#[test]
fn a_stream_of_the_callers() {
    let _alone = DEFAULT_STREAM
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let Some(cuda) = compiler() else { return };
    let args = arguments(DECAY, 3);
    // SAFETY: both streams outlive the kernels: the first one's owner is `cuda`, the second is the default stream.
    let streams = unsafe {
        [
            cuda.on_stream(cuda.stream_ptr()),
            Cuda::with_stream(0, 0).unwrap(),
        ]
    };
    for stream in streams {
        let kernel = stream.kernel(recurrence(DECAY));
        let mut resident = Resident::new(&kernel, &args).unwrap();
        resident.launch(&kernel).unwrap();
        right(&kernel, &args, &resident.results().unwrap());
    }
    // The same kernel on one stream after the other; a handle of its own is another matter.
    let kernel = cuda.kernel(recurrence(DECAY));
    // SAFETY: as above.
    let (same, other) = unsafe {
        (
            cuda.on_stream(cuda.stream_ptr()),
            Cuda::with_stream(0, 0).unwrap(),
        )
    };
    right(
        &kernel,
        &args,
        &kernel.on(&same).unwrap().run(&args).unwrap(),
    );
    let error = kernel.on(&other).unwrap_err().to_string();
    assert!(error.contains("the stream is of another handle"), "{error}");
}

#[test]
fn a_graph_runs_what_was_recorded_over_what_is_there() {
    let _alone = DEFAULT_STREAM
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let Some(cuda) = compiler() else { return };
    let kernel = cuda.kernel(recurrence(DECAY));
    let mut x = DeviceTensor::from_tensor(&cuda, &wave(Dtype::F32, &[2, 30, 8])).unwrap();
    let a = DeviceTensor::from_tensor(&cuda, &wave(Dtype::F32, &[8])).unwrap();
    let mut y = DeviceTensor::zeros(&cuda, Dtype::F32, &[2, 30, 8]).unwrap();
    let mut state = DeviceTensor::zeros(&cuda, Dtype::F32, &[2, 8]).unwrap();
    let launch = |x: &DeviceTensor, y: &mut DeviceTensor, h: &mut DeviceTensor| {
        let args = Args::new().input("x", x).input("a", &a).output("out", y);
        kernel.launch(args.state_in_place("h", h))
    };
    // Nothing can be compiled meanwhile, and the stream is none the worse for it.
    let error = cuda
        .capture(|| launch(&x, &mut y, &mut state))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("launch once with the same arguments before capturing"),
        "{error}"
    );
    launch(&x, &mut y, &mut state).unwrap();
    let wanted = y.to_tensor().unwrap();

    y.poison().unwrap();
    let graph = cuda.capture(|| launch(&x, &mut y, &mut state)).unwrap();
    let nothing = y.to_tensor().unwrap().to_f64();
    assert!(
        nothing.iter().all(|y| y.is_nan()),
        "nothing runs while it is recorded"
    );
    state.fill(0.0).unwrap();
    graph.launch().unwrap();
    assert!(y.to_tensor().unwrap().to_f64() == wanted.to_f64());
    // Other numbers in the same memory.
    x.fill(0.0).unwrap();
    state.fill(0.0).unwrap();
    graph.launch().unwrap();
    assert_eq!(y.to_tensor().unwrap().to_f64(), vec![0.0; 480]);
    // The graph keeps code and memory.
    drop((x, kernel.clone()));
    let mut others = Vec::new();
    for _ in 0..8 {
        let mut other = DeviceTensor::zeros(&cuda, Dtype::F32, &[2, 30, 8]).unwrap();
        other.fill(1.0).unwrap();
        others.push(other);
    }
    state.fill(0.0).unwrap();
    graph.launch().unwrap();
    assert_eq!(y.to_tensor().unwrap().to_f64(), vec![0.0; 480]);
    drop((graph, others));
    cuda.synchronize().unwrap();

    let error = cuda
        .capture(|| kernel.run(&arguments(DECAY, 1)).map(drop))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("while a CUDA graph is being captured"),
        "{error}"
    );
}

/// What a thread compiles does not meet what another one records, whenever that begins and ends.
#[test]
fn a_thread_compiles_while_another_records() {
    let _alone = DEFAULT_STREAM
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let Some(cuda) = compiler() else { return };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cuda.capture(|| Ok(())).unwrap();
            }
        });
        for k in 2..20 {
            let r = recurrence(&DECAY.replace("+ x", &format!("+ {k} * x")));
            let kernel = cuda.kernel(r.clone());
            let extents = kernel.extents(&[("B", 1), ("L", 9), ("D", 4)]).unwrap();
            let compiled = kernel.compile(&Spec::new(&r, Dtype::F32), &extents);
            if k == 19 || compiled.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            compiled.unwrap();
        }
    });
}

/// What one process compiles, the next one reads: it does without NVRTC, and is quick.
#[test]
fn compiled_code_is_kept_on_disk() {
    const FOLDER: &str = "SELSCAN_TEST_READS_FROM";
    let compiled = |cuda: &Cuda| {
        let r = recurrence(DECAY);
        let kernel = cuda.kernel(r.clone());
        let extents = kernel.extents(&[("B", 1), ("L", 100), ("D", 64)]).unwrap();
        let compiled = kernel
            .compile(&Spec::new(&r, Dtype::F32), &extents)
            .unwrap();
        compiled.stages()[0].program.clone()
    };
    if let Some(folder) = std::env::var_os(FOLDER) {
        assert!(!nvrtc::available());
        let cuda = gpu_with(Store::at(folder)).unwrap();
        let code = compiled(&cuda);
        let code = code.cuda().unwrap();
        assert!(code.from_disk());
        assert!(code.resources()[0].registers > 0);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(cuda) = compiler().and_then(|_| gpu_with(Store::at(folder.path()))) else {
        return;
    };
    assert!(!compiled(&cuda).cuda().unwrap().from_disk());
    let test = std::thread::current().name().unwrap().to_owned();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test])
        .envs([
            (FOLDER, folder.path().as_os_str()),
            ("SELSCAN_NVRTC", "/nowhere".as_ref()),
        ])
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stdout)
    );
    let files = |kind: &str| -> Vec<PathBuf> {
        let files = std::fs::read_dir(folder.path().join("cuda")).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        paths
            .filter(|p| p.extension().is_some_and(|e| e == kind))
            .collect()
    };
    let again = || {
        let cuda = gpu_with(Store::at(folder.path())).unwrap();
        compiled(&cuda).cuda().unwrap().from_disk()
    };
    // A plan that is not known may have the text of one that is.
    assert_eq!((files("json").len(), files("cubin").len()), (1, 1));
    std::fs::remove_file(&files("json")[0]).unwrap();
    assert!(again());
    assert_eq!((files("json").len(), files("cubin").len()), (1, 1));
    // Damaged files are compiled again.
    for kind in ["cubin", "json"] {
        let path = &files(kind)[0];
        let good = std::fs::read(path).unwrap();
        std::fs::write(path, &good[..good.len() / 2]).unwrap();
        assert_eq!(again(), kind == "json", "{kind}");
        assert!(again(), "{kind} was not made whole");
    }
}
