//! NVRTC as a library that is found when a kernel has to be compiled, not before.
//!
//! In: `SELSCAN_NVRTC` (the library, or a folder that it is in), the system's loader, and the folders where CUDA's
//! toolkit, conda and pip put it. Out: [`Nvrtc`], its functions. cudarc's own loader would take whichever `libnvrtc.so`
//! comes first and panic where there is none; this one can be told where to look and says where it did.
//!
//! `libnvrtc` opens `libnvrtc-builtins` by its bare name, which the loader does not find in pip's folders: it is loaded
//! beforehand from the folder beside it.

use std::env;
use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use crate::error::Error;

/// The environment variable that names NVRTC, or a folder that it is in.
pub(crate) const VARIABLE: &str = "SELSCAN_NVRTC";

/// Names of the library, the newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};

/// Where it lies in a folder that has it: in it, or as pip and the toolkit lay it out.
const WITHIN: &[&str] = &[
    "",
    "nvidia/cu13/lib",
    "nvidia/cuda_nvrtc/lib",
    "lib64",
    "lib",
    "bin",
];

/// A program that is being compiled.
pub(super) type Program = *mut std::ffi::c_void;

/// A function that says how many bytes something of a program has.
pub(super) type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
/// A function that writes them.
pub(super) type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// NVRTC's functions. Results are plain integers: a newer library may have results that no enum here knows.
pub(super) struct Nvrtc {
    /// Its version.
    pub version: (u32, u32),
    pub create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    pub destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    pub compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    pub cubin_size: Size,
    pub cubin: Get,
    pub ptx_size: Size,
    pub ptx: Get,
    pub log_size: Size,
    pub log: Get,
    pub error: unsafe extern "C" fn(c_int) -> *const c_char,
    pub arch_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub archs: unsafe extern "C" fn(*mut c_int) -> c_int,
    /// Never unloaded: it is in a static.
    _library: Library,
}

static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();

/// NVRTC, loaded now if it has not been.
pub(super) fn nvrtc() -> Result<&'static Nvrtc, Error> {
    NVRTC
        .get_or_init(load)
        .as_ref()
        .map_err(|searched| Error::NoNvrtc {
            searched: searched.clone(),
        })
}

/// NVRTC's version, if this process has loaded it.
pub(super) fn loaded_version() -> Option<(u32, u32)> {
    NVRTC.get()?.as_ref().ok().map(|nvrtc| nvrtc.version)
}

/// The library, or where it was looked for.
fn load() -> Result<Nvrtc, String> {
    let named = env::var_os(VARIABLE)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from);
    let mut why = Vec::new();
    if let Some(named) = &named {
        let files = if named.is_file() {
            vec![named.clone()]
        } else {
            files_in(named)
        };
        // Who names a library does not want another one.
        let none = || format!("{VARIABLE} is {}, where there is none", named.display());
        return files
            .iter()
            .find_map(|file| open(file, &mut why))
            .ok_or_else(|| why.into_iter().next().unwrap_or_else(none));
    }
    let by_loader = NAMES.iter().map(PathBuf::from);
    let roots = roots();
    let by_folder = roots.iter().flat_map(|root| files_in(root));
    let found = by_loader
        .chain(by_folder)
        .find_map(|file| open(&file, &mut why));
    found.ok_or_else(|| {
        let folders: Vec<String> = roots.iter().map(|r| r.display().to_string()).collect();
        // A library that is there and does not load says more than one that is not there.
        let broken = why.into_iter().find(|w| !w.contains("No such file"));
        let broken = broken.map_or(String::new(), |w| format!("; {w}"));
        format!(
            "{VARIABLE} is not set, and neither the system's loader nor {} has {}{broken}",
            folders.join(", "),
            NAMES[0]
        )
    })
}

/// Folders where programs that install NVRTC put it.
fn roots() -> Vec<PathBuf> {
    let from = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let mut roots: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(from)
        .collect();
    if let Some(environment) = from("VIRTUAL_ENV") {
        // lib/python3.12/site-packages
        let versions = std::fs::read_dir(environment.join("lib"))
            .into_iter()
            .flatten()
            .flatten();
        roots.extend(
            versions
                .map(|entry| entry.path().join("site-packages"))
                .filter(|p| p.is_dir()),
        );
    }
    if cfg!(unix) {
        roots.push(PathBuf::from("/usr/local/cuda"));
    }
    roots
}

/// The files below a folder that may be NVRTC.
fn files_in(root: &Path) -> Vec<PathBuf> {
    let folders = WITHIN.iter().map(|within| root.join(within));
    folders
        .flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)))
        .filter(|file| file.is_file())
        .collect()
}

/// The library of that name or path; why not goes to `why`.
fn open(file: &Path, why: &mut Vec<String>) -> Option<Nvrtc> {
    if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty()) {
        load_builtins(folder);
    }
    // SAFETY: NVRTC's initialisers only set up its own data.
    let library = unsafe { Library::new(file) };
    match library.and_then(functions) {
        Ok(nvrtc) => Some(nvrtc),
        Err(e) => {
            // What the loader said is the error's source.
            let said =
                std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            why.push(format!("{}: {said}", file.display()));
            None
        }
    }
}

/// Loads what NVRTC opens by its bare name, from the folder beside it, for good.
fn load_builtins(folder: &Path) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for file in files {
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.contains("nvrtc-builtins") && !name.contains(".alt.") {
            // SAFETY: it holds data and functions of NVRTC's, no more.
            if let Ok(library) = unsafe { Library::new(file.path()) } {
                std::mem::forget(library);
            }
        }
    }
}

/// The functions of a library.
fn functions(library: Library) -> Result<Nvrtc, libloading::Error> {
    // SAFETY: these are the signatures in nvrtc.h, which have not changed since CUDA 11.2, where the last of them came.
    unsafe {
        let version =
            library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>("nvrtcVersion")?;
        let (mut major, mut minor) = (0, 0);
        version(&raw mut major, &raw mut minor);
        Ok(Nvrtc {
            version: (major.unsigned_abs(), minor.unsigned_abs()),
            create: *library.get("nvrtcCreateProgram")?,
            destroy: *library.get("nvrtcDestroyProgram")?,
            compile: *library.get("nvrtcCompileProgram")?,
            cubin_size: *library.get("nvrtcGetCUBINSize")?,
            cubin: *library.get("nvrtcGetCUBIN")?,
            ptx_size: *library.get("nvrtcGetPTXSize")?,
            ptx: *library.get("nvrtcGetPTX")?,
            log_size: *library.get("nvrtcGetProgramLogSize")?,
            log: *library.get("nvrtcGetProgramLog")?,
            error: *library.get("nvrtcGetErrorString")?,
            arch_count: *library.get("nvrtcGetNumSupportedArchs")?,
            archs: *library.get("nvrtcGetSupportedArchs")?,
            _library: library,
        })
    }
}
