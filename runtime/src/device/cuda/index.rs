//! What plans were compiled to, on disk: one file per plan, compute capability and version of NVRTC.
//!
//! In: the [`Fingerprint`] of a plan. Out: its [`Kernels`] and their CUBIN (a file of its own: [`super::code`]), if an earlier
//! process compiled it. So a kernel that was compiled once needs no loops and no CUDA C. The fingerprint changes with the
//! sources that lower and emit, so code of another compiler is never found; a plan that is not found may still have the
//! text of one that was compiled, as plans name extents that their text leaves open.

use std::path::Path;

use selscan_codegen::Fingerprint;
use selscan_codegen::backend::cuda::Kernels;
use serde::{Deserialize, Serialize};

use super::code::{self, Cubin, Id};
use crate::store::{of_version, place};

/// The version of the files' layout.
const VERSION: u32 = 1;

/// A file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    plan: String,
    code: Id,
    kernels: Kernels,
}

fn name(plan: &Fingerprint, capability: u32, (major, minor): (u32, u32)) -> String {
    format!("{plan}-{capability}-{major}.{minor}.json")
}

/// What a plan was compiled to.
pub(super) fn recall(
    folder: &Path,
    plan: &Fingerprint,
    capability: u32,
) -> Option<(Kernels, Cubin)> {
    let nvrtc = code::version(Some(folder))?;
    let path = folder.join(name(plan, capability, nvrtc));
    let bytes = code::contents(&path)?;
    let file: File = match of_version(&bytes, VERSION) {
        Ok(file) => file,
        Err(why) => return code::ignored(&path, &why),
    };
    if file.plan != plan.to_string() || !file.code.is_for(capability, nvrtc) {
        return code::ignored(&path, "it belongs to another kernel");
    }
    Some((file.kernels, code::read(folder, &file.code)?))
}

/// Remembers what a plan was compiled to.
pub(super) fn note(
    folder: &Path,
    plan: &Fingerprint,
    capability: u32,
    kernels: &Kernels,
    code: &Id,
) {
    let file = File {
        version: VERSION,
        plan: plan.to_string(),
        code: code.clone(),
        kernels: kernels.clone(),
    };
    let name = name(plan, capability, code.nvrtc());
    let written = serde_json::to_vec(&file)
        .map_err(std::io::Error::from)
        .and_then(|contents| place(folder, &folder.join(name), &contents));
    if let Err(why) = written {
        // The code itself is on disk, or a warning said why not.
        tracing::debug!(
            "{}: {why}; the next process lowers the kernel again to find its code",
            folder.display()
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use selscan_codegen::backend::cuda::emit;
    use selscan_codegen::{Options, Target, default_plan, lower};
    use selscan_dsl::scan::prepare;
    use selscan_dsl::{Extents, Recurrence};

    /// A plan's name, its kernels and their text.
    fn plan(steps: usize) -> (Fingerprint, Kernels, String) {
        let text = "fn decay(x: Tensor<B, L, D>, a: Tensor<D>, h: State<B, D>) -> Tensor<B, L, D> { h = a * h + x; h }";
        let r: Recurrence = Recurrence::parse(text).unwrap();
        let scans = prepare(&r, &|_| true, false);
        let extents = Extents(vec![2, steps, 64]);
        let plan = default_plan(&scans[0], &extents, &Options::default(), &Target::h200());
        let plan = plan.unwrap();
        let source = emit(&lower(&plan)).unwrap();
        (Fingerprint::of(&plan), source.kernels, source.text)
    }

    #[test]
    fn a_plan_is_recalled_with_its_code() {
        if !super::super::nvrtc::tests_can_run() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (id, kernels, text) = plan(100);
        assert!(recall(folder, &id, 90).is_none());
        let made = code::make(Some(folder), &text, 90).unwrap();
        assert!(recall(folder, &id, 90).is_none());
        note(folder, &id, 90, &kernels, &made.id);
        let (found, cubin) = recall(folder, &id, 90).unwrap();
        assert_eq!(found, kernels);
        assert_eq!(cubin.cubin, made.cubin);
        assert!(cubin.read);
        assert!(recall(folder, &id, 80).is_none());
        assert!(recall(folder, &plan(101).0, 90).is_none());
        // Files that are damaged, of another version or another plan's are as good as none.
        let path = folder.join(name(&id, 90, made.id.nvrtc()));
        let good = std::fs::read_to_string(&path).unwrap();
        let other = folder.join(name(&plan(101).0, 90, made.id.nvrtc()));
        std::fs::write(&other, &good).unwrap();
        assert!(recall(folder, &plan(101).0, 90).is_none());
        let half = good[..good.len() / 2].to_owned();
        let newer = good.replace("\"version\":1", "\"version\":2");
        let elsewhere = good.replace("sm_90", "sm_80");
        for bad in [String::new(), half, newer, elsewhere] {
            assert_ne!(bad, good);
            std::fs::write(&path, bad).unwrap();
            assert!(recall(folder, &id, 90).is_none());
        }
        note(folder, &id, 90, &kernels, &made.id);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), good);
        assert!(recall(folder, &id, 90).is_some());
        // Without the code, the plan is as if it had not been compiled.
        let compiled = |p: &Path| p.extension().is_some_and(|e| e == "cubin");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if compiled(&path) {
                std::fs::remove_file(path).unwrap();
            }
        }
        assert!(recall(folder, &id, 90).is_none());
    }
}
