#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use cranelift_codegen::isa;
use cranelift_codegen::settings::{self, Configurable};

use super::*;
use crate::sample;

/// An x86-64 with exactly these features.
fn x64(features: &[&str]) -> Arc<dyn TargetIsa> {
    let mut flags = settings::builder();
    flags.set("opt_level", "speed").unwrap();
    let mut builder = isa::lookup_by_name("x86_64-unknown-linux-gnu").unwrap();
    for feature in features {
        builder.enable(feature).unwrap();
    }
    builder.finish(settings::Flags::new(flags)).unwrap()
}

fn modern() -> Arc<dyn TargetIsa> {
    x64(&[
        "has_sse3",
        "has_ssse3",
        "has_sse41",
        "has_sse42",
        "has_avx",
        "has_avx2",
        "has_fma",
    ])
}

#[test]
fn scan() {
    let isa = modern();
    let p = sample::selective_scan();
    println!("{p}");
    println!("{}", prepare(&p, &*isa));
    println!("{}", emit(&p, &*isa).unwrap());
    println!("{}", assembly(&p, &*isa).unwrap());
}
