//! What is emitted, by its text; what it computes is compared with the interpreter where code can run, in runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use cranelift_codegen::isa;
use cranelift_codegen::settings::{self, Configurable};

use super::*;
use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{Buf, Ix, LoopKind, Rhs, Stmt, Var};
use crate::sample::{self, extent, for_, input, output};

const SSE41: &[&str] = &["has_sse3", "has_ssse3", "has_sse41", "has_sse42"];
const MODERN: &[&str] = &[
    "has_sse3",
    "has_ssse3",
    "has_sse41",
    "has_sse42",
    "has_avx",
    "has_avx2",
    "has_fma",
];

/// An x86-64 with exactly these extensions.
fn x64(features: &[&str]) -> Arc<dyn TargetIsa> {
    let mut flags = settings::builder();
    flags.set("opt_level", "speed").unwrap();
    let mut builder = isa::lookup_by_name("x86_64-unknown-linux-gnu").unwrap();
    for feature in features {
        builder.enable(feature).unwrap();
    }
    builder.finish(settings::Flags::new(flags)).unwrap()
}

/// The instructions of the block with most of those that contain `with`: the hot loop.
fn hottest(proc: &Proc, isa: &dyn TargetIsa, with: &str) -> Vec<String> {
    let text = assembly(proc, isa).unwrap();
    let mut blocks: Vec<Vec<String>> = vec![Vec::new()];
    for line in text.lines() {
        if line.starts_with("block") {
            blocks.push(Vec::new());
        } else if let (Some(name), Some(block)) =
            (line.split_whitespace().next(), blocks.last_mut())
        {
            block.push(name.to_owned());
        }
    }
    let count = |b: &Vec<String>| b.iter().filter(|i| i.contains(with)).count();
    blocks.into_iter().max_by_key(count).unwrap()
}

fn count(block: &[String], name: &str) -> usize {
    block.iter().filter(|i| i.starts_with(name)).count()
}

/// 2ˣ of 4 points: clamp (2), round and reduce (3), 5 fused steps, the power of two (2).
#[test]
fn exp2_is_twelve_vector_instructions() {
    let p = sample::map(LoopOp::Math(Op::Exp2), 1, Ty::F32, Dtype::F32, Some(4));
    let block = hottest(&p, &*x64(MODERN), "vfmadd");
    let arithmetic: usize = [
        "vminps", "vmaxps", "vaddps", "vsubps", "vfmadd", "vpslld", "vmulps",
    ]
    .iter()
    .map(|name| count(&block, name))
    .sum();
    assert_eq!(arithmetic, 12, "{block:?}");
    assert_eq!(count(&block, "vfmadd"), 5, "{block:?}");
    assert_eq!(
        count(&block, "v"),
        12 + 2,
        "one load and one store beside: {block:?}"
    );
}

/// The state loop of a selective scan: per 4 points 3 loads of the tile, a and b and c, exp2, 4 more operations, one
/// store; no address is computed anew.
#[test]
fn the_hot_loop_of_a_selective_scan() {
    let block = hottest(&sample::selective_scan(), &*x64(MODERN), "vfmadd");
    assert_eq!(count(&block, "vfmadd"), 7, "{block:?}");
    assert!(block.len() <= 32, "{} {block:?}", block.len());
    assert_eq!(count(&block, "imul") + count(&block, "shl"), 0, "{block:?}");
    assert_eq!(count(&block, "call"), 0);
}

/// Without FMA no fused instruction is asked for, and without AVX there are still vectors.
#[test]
fn older_machines() {
    let p = sample::selective_scan();
    let without_fma: Vec<&str> = MODERN.iter().copied().filter(|f| *f != "has_fma").collect();
    for features in [&without_fma[..], SSE41, &[]] {
        let clif = emit(&p, &*x64(features)).unwrap().display().to_string();
        assert!(!clif.contains("fma"), "{features:?}");
        let avx = features.contains(&"has_avx");
        let row = if avx { "load.f32x4" } else { "load.i32x4" };
        assert!(clif.contains(row), "{features:?}");
        let code = assembly(&p, &*x64(features)).unwrap();
        assert!(
            !code.lines().any(|l| l.trim_start().starts_with("call")),
            "{features:?}"
        );
    }
    assert!(!supports(&*x64(&[])).has(LoopOp::Math(Op::Floor), Ty::F32));
    assert!(supports(&*x64(SSE41)).has(LoopOp::Math(Op::Floor), Ty::F32));
    assert!(!supports(&*x64(SSE41)).has(LoopOp::Fma, Ty::F32));
}

#[test]
fn other_machines() {
    let isa = isa::lookup_by_name("aarch64-unknown-linux-gnu").unwrap();
    let isa = isa
        .finish(settings::Flags::new(settings::builder()))
        .unwrap();
    let text = assembly(&sample::selective_scan(), &*isa).unwrap();
    assert!(text.contains("fmla"), "{text}");
}

/// Widths that no vectors hold are refused in words.
#[test]
fn odd_widths_are_refused() {
    let p = sample::map(LoopOp::Math(Op::Neg), 1, Ty::F32, Dtype::F32, Some(3));
    let error = emit(&p, &*x64(MODERN)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sample: a Lane loop of 3 turns (even, 2 to 32) is not supported by the Cranelift backend"
    );
}

#[test]
fn what_is_not_in_the_grammar_is_refused() {
    let p = sample::empty(extent(0));
    assert!(matches!(
        emit(&p, &*x64(MODERN)),
        Err(EmitError::Invalid(_))
    ));
}

/// Accesses whose indices differ by constants share one address; the constants are displacements.
#[test]
fn constants_of_indices_are_displacements() {
    let mut p = sample::empty(extent(0));
    p.buffers = vec![
        input(0, "x", Dtype::F32, extent(0) * Ix::Const(8)),
        output(0, "y", Dtype::F32, extent(0) * Ix::Const(8)),
    ];
    let item = p.var("item");
    let mut body = Vec::new();
    for k in [0, 1, 5] {
        let at = Ix::from(item) * Ix::Const(8) + Ix::Const(k);
        let x = sample::load(&mut p, &mut body, Ty::F32, 0, at.clone());
        body.push(Stmt::Store(Buf(1), at, x));
    }
    p.body = vec![for_(item, LoopKind::Core, 0, extent(0), body)];
    let clif = emit(&p, &*x64(MODERN)).unwrap().display().to_string();
    for displacement in ["+4", "+20"] {
        let loads = clif
            .lines()
            .filter(|l| l.contains("load.f32") && l.ends_with(displacement));
        assert_eq!(loads.count(), 1, "{clif}");
    }
}

/// A constant at the end of a displacement's range leaves room for the lanes behind it.
#[test]
fn large_constants_are_added() {
    let mut p = sample::map(LoopOp::Math(Op::Neg), 1, Ty::F32, Dtype::F32, Some(8));
    let Stmt::For { body, .. } = &mut p.body[0] else {
        panic!("a core loop")
    };
    let Stmt::For { body, .. } = &mut body[0] else {
        panic!("a lane loop")
    };
    let Stmt::Set(_, Rhs::Load(_, ix)) = &mut body[0] else {
        panic!("a load")
    };
    *ix = ix.clone() + Ix::Const((1 << 29) - 1);
    let clif = emit(&p, &*x64(MODERN)).unwrap().display().to_string();
    assert!(clif.contains("iconst.i64 0x7fff_fffc"), "{clif}");
}

/// A load under an if stays under it: it may be the if that keeps it inside its buffer.
#[test]
fn loads_do_not_leave_ifs() {
    let item = Var(0);
    let clif = |guard: bool, at: Ix| {
        let mut p = sample::empty(extent(0));
        p.buffers = vec![
            input(0, "x", Dtype::F32, extent(0)),
            output(0, "y", Dtype::F32, extent(0)),
        ];
        assert_eq!(p.var("item"), item);
        let r = p.reg(Ty::F32);
        let mut body = vec![
            Stmt::Set(r, Rhs::Load(Buf(0), at)),
            Stmt::Store(Buf(1), item.into(), r),
        ];
        if guard {
            body = vec![Stmt::If {
                lhs: Ix::Const(3),
                rhs: extent(0),
                then: body,
                els: vec![],
            }];
        }
        p.body = vec![for_(item, LoopKind::Core, 0, extent(0), body)];
        emit(&p, &*x64(MODERN)).unwrap().display().to_string()
    };
    let movable = |text: &str| {
        text.lines()
            .any(|l| l.contains("load.f32") && l.contains("can_move"))
    };
    assert!(movable(&clif(false, Ix::Const(3))));
    assert!(!movable(&clif(true, Ix::Const(3))));
    assert!(
        movable(&clif(true, item.into())),
        "its index changes with the loop around the if"
    );
}

#[test]
fn scratch_bytes_are_rounded_up() {
    let p = sample::selective_scan();
    // h: 16·4 f32; tile: 64·4·3 f32.
    assert_eq!(
        super::super::scratch_bytes(&p, &[8, 8, 16]),
        Some(256 + 3072)
    );
    assert_eq!(super::super::scratch_bytes(&p, &[8, 8, 1]), Some(64 + 3072));
    assert_eq!(super::super::scratch_bytes(&p, &[8, 8]), None);
    assert_eq!(super::super::scratch_bytes(&p, &[8, 8, i64::MAX]), None);
}
