//! The machine at hand: which instructions it has, how many cores, how large its caches are.
//!
//! In: features to leave out. Out: the instruction set that Cranelift compiles for, and a [`Target`] for plans.

use std::fs;
use std::sync::Arc;

use cranelift_codegen::isa::{OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use selscan_codegen::Target;

use crate::error::Error;

/// An extension of the instruction set that may be left out, to run (and to test) as on a machine without it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Feature {
    /// a·b + c rounded once.
    Fma,
    /// Three-operand vector instructions, and with them everything newer.
    Avx,
    /// 256-bit integers, and with them everything newer.
    Avx2,
    /// 512-bit vectors and the 32-register encodings.
    Avx512,
    /// Rounding and blending instructions, and with them everything newer.
    Sse41,
}

impl Feature {
    /// Cranelift's names of what goes with it on x86-64; other machines have none of these.
    fn flags(self) -> &'static [&'static str] {
        const AVX512: [&str; 5] = [
            "has_avx512bitalg",
            "has_avx512dq",
            "has_avx512f",
            "has_avx512vl",
            "has_avx512vbmi",
        ];
        const SSE41: [&str; 13] = [
            AVX512[0],
            AVX512[1],
            AVX512[2],
            AVX512[3],
            AVX512[4],
            "has_avx512vnni",
            "has_avx_vnni",
            "has_avx2",
            "has_fma",
            "has_avx",
            "has_sse42",
            "has_sse41",
            "has_popcnt",
        ];
        match self {
            Feature::Fma => &["has_fma"],
            Feature::Avx512 => &SSE41[..6],
            Feature::Avx2 => &SSE41[..8],
            Feature::Avx => &SSE41[..10],
            Feature::Sse41 => &SSE41,
        }
    }
}

/// The instruction set of this machine without some features.
pub(super) fn isa(without: &[Feature]) -> Result<OwnedTargetIsa, Error> {
    let host = |why: &dyn ToString| Error::Host(why.to_string());
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "speed"),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("unwind_info", "false"),
        ("probestack_strategy", "inline"),
        // The emitter checks its own text.
        ("enable_verifier", "false"),
    ] {
        flags.set(name, value).map_err(|e| host(&e))?;
    }
    let mut builder = cranelift_native::builder().map_err(|e| host(&e))?;
    if cfg!(target_arch = "x86_64") {
        for flag in without.iter().flat_map(|f| f.flags()) {
            builder.set(flag, "false").map_err(|e| host(&e))?;
        }
    }
    builder
        .finish(settings::Flags::new(flags))
        .map_err(|e| host(&e))
}

/// What plans need to know of this machine.
pub(super) fn target(isa: &Arc<dyn TargetIsa>, threads: usize) -> Target {
    let has = |flag: &str| {
        isa.isa_flags()
            .iter()
            .any(|f| f.name == flag && f.value_string() == "true")
    };
    let x86 = cfg!(target_arch = "x86_64");
    let fma = !x86 || has("has_fma");
    let mut name = format!("{} {}", std::env::consts::ARCH, model());
    for (flag, text) in [
        ("has_sse41", " sse4.1"),
        ("has_avx", " avx"),
        ("has_avx2", " avx2"),
        ("has_fma", " fma"),
        ("has_avx512vl", " avx512"),
    ] {
        if has(flag) {
            name.push_str(text);
        }
    }
    name.push_str(&format!(" {threads} threads"));
    Target {
        name,
        vector_bytes: 16,
        fma,
        cores: u32::try_from(threads).unwrap_or(u32::MAX),
        l1: cache(1).unwrap_or(32 << 10),
        l2: cache(2).unwrap_or(1 << 20),
        l3: cache(3).unwrap_or(16 << 20),
        gpu: None,
    }
}

/// The processor's model, where the system tells it: tuned schedules in a shared home belong to one model.
fn model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(k, v)| (k.trim() == key).then(|| v.trim().to_owned()))
    };
    match (field("model name"), field("cpu family"), field("model")) {
        (Some(name), Some(family), Some(model)) => format!("{name} {family}.{model}"),
        _ => format!("unknown {}", std::env::consts::OS),
    }
}

/// Bytes of the first core's data cache of a level, where the system tells them (Linux).
fn cache(level: u32) -> Option<u64> {
    let folders = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    folders.filter_map(Result::ok).find_map(|folder| {
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).ok();
        let wanted = read("level")?.trim() == level.to_string()
            && matches!(read("type")?.trim(), "Data" | "Unified");
        wanted.then(|| bytes(read("size")?.trim())).flatten()
    })
}

/// `48K`, `2M` in bytes.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        assert_eq!(bytes("48K"), Some(48 << 10));
        assert_eq!(bytes("2M"), Some(2 << 20));
        assert_eq!(bytes("512"), Some(512));
        assert_eq!(bytes("K"), None);
        assert_eq!(bytes(""), None);
    }

    #[test]
    fn a_feature_left_out_is_left_out_of_the_code_and_of_the_target() {
        let full = target(&isa(&[]).unwrap(), 3);
        assert_eq!((full.cores, full.vector_bytes), (3, 16));
        assert!(full.l1 >= 8 << 10 && full.l2 >= full.l1);
        if cfg!(target_arch = "x86_64") {
            for feature in [Feature::Fma, Feature::Avx, Feature::Avx2, Feature::Sse41] {
                let isa = isa(&[feature]).unwrap();
                let on: Vec<String> = isa
                    .isa_flags()
                    .iter()
                    .filter(|f| f.value_string() == "true")
                    .map(|f| f.name.to_owned())
                    .collect();
                for flag in feature.flags() {
                    assert!(!on.iter().any(|f| f == flag), "{flag} {on:?}");
                }
                assert!(!target(&isa, 3).fma || feature == Feature::Avx2);
            }
        }
    }
}
