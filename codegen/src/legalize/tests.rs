//! Every legalised function against its meaning: dense samples and edges, in f32 and f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use selscan_dsl::InputId;

use super::*;
use crate::interp::{Memory, interp};
use crate::loop_ir::{Program, Role};
use crate::sample;
use crate::verify::verify;

fn supports(fma: bool) -> Supports {
    let mut supports = Supports::base();
    if fma {
        supports.add(LoopOp::Fma);
    }
    supports
}

/// f at every x (rows of operands), by the interpreter, legalised.
fn run(op: LoopOp, ty: Ty, fma: bool, columns: &[Vec<f64>]) -> Vec<f64> {
    let dtype = if ty == Ty::F64 {
        Dtype::F64
    } else {
        Dtype::F32
    };
    let proc = sample::map(op, columns.len() as u32, ty, dtype, None);
    let legal = legalize(proc.clone(), &supports(fma));
    verify(&legal).unwrap();
    let twice = legalize(legal.clone(), &supports(fma)).to_string();
    assert_eq!(twice, legal.to_string(), "legalising twice changes nothing");
    let mut memory = Memory::new();
    for (i, column) in columns.iter().enumerate() {
        memory.set(Role::Input(InputId(i as u32)), dtype, column);
    }
    let program = Program {
        procs: vec![legal],
        workspaces: Vec::new(),
    };
    interp(&program, &mut memory, &[columns[0].len() as i64, 1, 1]).unwrap();
    memory.get(Role::Output(0), dtype).unwrap()
}

fn as_stored(ty: Ty, x: f64) -> f64 {
    if ty == Ty::F64 {
        x
    } else {
        f64::from(x as f32)
    }
}

/// Points of [lo, hi], evenly spread, and those next to its ends and to 0 by powers of two.
fn samples(lo: f64, hi: f64) -> Vec<f64> {
    let mut x: Vec<f64> = (0..=4000)
        .map(|i| lo + (hi - lo) * f64::from(i) / 4000.0)
        .collect();
    for k in 0..40 {
        let small = 0.7 * 0.5f64.powi(k);
        x.extend(
            [small, -small]
                .into_iter()
                .filter(|s| (lo..=hi).contains(s)),
        );
    }
    x
}

/// What is measured: the function, where, and the largest error in eps, f32 and f64.
struct Case {
    op: Op,
    range: (f64, f64),
    f32: f64,
    f64: f64,
}

const fn case(op: Op, lo: f64, hi: f64, f32: f64, f64: f64) -> Case {
    Case {
        op,
        range: (lo, hi),
        f32,
        f64,
    }
}

const CASES: &[Case] = &[
    case(Op::Exp2, -125.0, 127.99, 1.5, 1.2),
    case(Op::Exp2, -1.0, 1.0, 1.5, 1.2),
    case(Op::Exp, -86.9, 88.7, 1.0, 1.2),
    case(Op::Exp, -1.0, 1.0, 1.0, 1.2),
    case(Op::Expm1, -30.0, 88.7, 1.8, 1.8),
    case(Op::Expm1, -1.0, 1.0, 1.8, 1.8),
    case(Op::Phi1, -30.0, 80.0, 2.0, 2.0),
    case(Op::Phi1, -0.5, 0.5, 2.0, 2.0),
    case(Op::Tanh, -12.0, 12.0, 2.5, 2.5),
    case(Op::Tanh, -0.5, 0.5, 2.5, 2.5),
    case(Op::Sigmoid, -86.0, 40.0, 2.5, 2.5),
    case(Op::Softplus, -86.0, 40.0, 2.0, 2.5),
    case(Op::Softplus, -2.0, 2.0, 2.0, 2.5),
    case(Op::Log, 1e-3, 2.0, 1.1, 1.1),
    case(Op::Log, 0.1, 1e6, 1.1, 1.1),
    case(Op::Log2, 1e-3, 2.0, 1.5, 1.5),
    case(Op::Log2, 0.1, 1e6, 1.5, 1.5),
    case(Op::Sin, -4.0, 4.0, 1.5, 1.5),
    case(Op::Cos, -4.0, 4.0, 2.0, 2.0),
    case(Op::Sin, -1e4, 1e4, 2.0, 2.0),
    case(Op::Cos, -1e4, 1e4, 2.0, 2.0),
    case(Op::Erf, -5.0, 5.0, 1.5, 1.5),
    case(Op::Erf, -0.5, 0.5, 1.5, 1.5),
    case(Op::Rsqrt, 1e-6, 1e6, 1.0, 1.2),
];

/// Every expansion against the f64 meaning: relative error, that of sin and cos of the larger of |f| and 2⁻⁵.
#[test]
fn every_function_is_as_accurate_as_it_says() {
    let mut wrong = Vec::new();
    for case in CASES {
        for (ty, eps, allowed) in [
            (Ty::F32, f64::from(f32::EPSILON), case.f32),
            (Ty::F64, f64::EPSILON, case.f64),
        ] {
            for fma in [true, false] {
                let x: Vec<f64> = samples(case.range.0, case.range.1)
                    .into_iter()
                    .map(|x| as_stored(ty, x))
                    .collect();
                let y = run(LoopOp::Math(case.op), ty, fma, std::slice::from_ref(&x));
                let floor = if matches!(case.op, Op::Sin | Op::Cos) {
                    1.0 / 32.0
                } else {
                    0.0
                };
                let mut worst = (0.0, 0.0);
                for (x, y) in x.iter().zip(y) {
                    let wanted = (case.op.info().real)(&[*x]);
                    let size = wanted.abs().max(floor);
                    let error = if size == 0.0 {
                        y.abs()
                    } else {
                        (y - wanted).abs() / size
                    };
                    let error = error / eps;
                    if error.is_nan() || error > worst.0 {
                        worst = (error, *x);
                    }
                }
                println!(
                    "{} {} fma={fma} {:?}: {:.2} eps at {}",
                    case.op.name(),
                    ty.name(),
                    case.range,
                    worst.0,
                    worst.1
                );
                if worst.0.is_nan() || worst.0 > allowed {
                    wrong.push(format!(
                        "{} {} fma={fma}: {worst:?}",
                        case.op.name(),
                        ty.name()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn edges() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    #[rustfmt::skip]
    let table: &[(Op, &[(f64, f64)])] = &[
        (Op::Exp2, &[(inf, inf), (-inf, 0.0), (nan, nan), (0.0, 1.0), (-0.0, 1.0), (10.0, 1024.0), (-3.0, 0.125), (1e30, inf), (-1e30, 0.0)]),
        (Op::Exp, &[(inf, inf), (-inf, 0.0), (nan, nan), (0.0, 1.0), (1e30, inf), (-1e30, 0.0)]),
        (Op::Expm1, &[(inf, inf), (-inf, -1.0), (nan, nan), (0.0, 0.0), (1e30, inf), (-1e30, -1.0)]),
        (Op::Phi1, &[(-inf, 0.0), (nan, nan), (0.0, 1.0), (-0.0, 1.0)]),
        (Op::Tanh, &[(inf, 1.0), (-inf, -1.0), (nan, nan), (0.0, 0.0), (1e30, 1.0)]),
        (Op::Sigmoid, &[(inf, 1.0), (-inf, 0.0), (nan, nan), (0.0, 0.5), (1e30, 1.0), (-1e30, 0.0)]),
        (Op::Softplus, &[(inf, inf), (-inf, 0.0), (nan, nan), (25.0, 25.0), (1e30, 1e30), (-1e30, 0.0)]),
        (Op::Log, &[(inf, inf), (-inf, nan), (nan, nan), (0.0, -inf), (-0.0, -inf), (-1.0, nan), (1.0, 0.0)]),
        (Op::Log2, &[(inf, inf), (-inf, nan), (nan, nan), (0.0, -inf), (-1.0, nan), (1.0, 0.0), (8.0, 3.0), (0.25, -2.0)]),
        (Op::Sin, &[(inf, nan), (-inf, nan), (nan, nan), (0.0, 0.0)]),
        (Op::Cos, &[(inf, nan), (-inf, nan), (nan, nan), (0.0, 1.0)]),
        (Op::Erf, &[(inf, 1.0), (-inf, -1.0), (nan, nan), (0.0, 0.0), (9.0, 1.0), (-9.0, -1.0)]),
        (Op::Rsqrt, &[(inf, 0.0), (-1.0, nan), (nan, nan), (0.0, inf), (4.0, 0.5)]),
        (Op::Floor, &[(inf, inf), (-inf, -inf), (nan, nan), (0.0, 0.0), (2.5, 2.0), (-2.5, -3.0), (-2.0, -2.0), (8_388_607.5, 8_388_607.0), (1e30, 1e30), (0.99, 0.0), (-0.01, -1.0)]),
    ];
    for (op, points) in table {
        let x: Vec<f64> = points.iter().map(|p| p.0).collect();
        for ty in [Ty::F32, Ty::F64] {
            for fma in [true, false] {
                let y = run(LoopOp::Math(*op), ty, fma, std::slice::from_ref(&x));
                for ((x, wanted), y) in points.iter().zip(y) {
                    let wanted = as_stored(ty, *wanted);
                    let same = y == wanted || (y.is_nan() && wanted.is_nan());
                    assert!(same, "{}({x}) {}: {y}, not {wanted}", op.name(), ty.name());
                }
            }
        }
    }
}

/// Overflow is at the right number, and what is too small for the result is 0.
#[test]
fn ends_of_the_range() {
    let near = |y: f64, wanted: f64| (y - wanted).abs() <= 2.0 * f64::from(f32::EPSILON) * wanted;
    let x = vec![127.999, 128.0, -125.4, -125.6, -126.5, -127.5, -149.0];
    let y = run(
        LoopOp::Math(Op::Exp2),
        Ty::F32,
        true,
        std::slice::from_ref(&x),
    );
    assert!(
        near(y[0], as_stored(Ty::F32, x[0]).exp2()) && y[1] == f64::INFINITY,
        "{y:?}"
    );
    assert!(near(y[2], as_stored(Ty::F32, x[2]).exp2()), "{y:?}");
    assert!(y[3..] == [0.0; 4], "{y:?}");
    let x = vec![88.7228, 88.73, -87.5, -100.0];
    let y = run(
        LoopOp::Math(Op::Exp),
        Ty::F32,
        true,
        std::slice::from_ref(&x),
    );
    assert!(
        near(y[0], as_stored(Ty::F32, x[0]).exp()) && y[1] == f64::INFINITY,
        "{y:?}"
    );
    assert!(y[2..] == [0.0; 2], "{y:?}");
    // Subnormal numbers have logarithms.
    let x = vec![1e-40, f64::from(f32::MIN_POSITIVE)];
    let y = run(
        LoopOp::Math(Op::Log),
        Ty::F32,
        true,
        std::slice::from_ref(&x),
    );
    assert!(
        near(-y[0], -as_stored(Ty::F32, 1e-40).ln()) && near(-y[1], -x[1].ln()),
        "{y:?}"
    );
}

/// A NaN with any payload stays one.
#[test]
fn payloads_stay_nan() {
    let nan = f64::from(f32::from_bits(0x7fc0_0155));
    for op in [
        Op::Exp2,
        Op::Exp,
        Op::Tanh,
        Op::Log,
        Op::Softplus,
        Op::Sin,
        Op::Erf,
    ] {
        let y = run(LoopOp::Math(op), Ty::F32, true, &[vec![nan, -nan]]);
        assert!(y.iter().all(|y| y.is_nan()), "{}: {y:?}", op.name());
    }
}

#[test]
fn min_and_max_propagate_nan() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let a = vec![1.0, 2.0, nan, 1.0, nan, -inf, inf];
    let b = vec![2.0, 1.0, 1.0, nan, nan, 0.0, 0.0];
    for ty in [Ty::F32, Ty::F64] {
        for op in [Op::Min, Op::Max] {
            let y = run(LoopOp::Math(op), ty, true, &[a.clone(), b.clone()]);
            for i in 0..a.len() {
                let wanted = (op.info().real)(&[a[i], b[i]]);
                assert!(
                    y[i] == wanted || y[i].is_nan() && wanted.is_nan(),
                    "{} {i}",
                    op.name()
                );
            }
        }
    }
}

#[test]
fn rounding_to_integers() {
    let x = vec![0.5, 1.5, 2.5, -0.5, -1.5, 0.4999, 1e6 + 0.5, -3.7];
    for ty in [Ty::F32, Ty::F64] {
        let y = run(LoopOp::Round, ty, true, std::slice::from_ref(&x));
        let wanted: Vec<f64> = x.iter().map(|x| x.round_ties_even()).collect();
        assert_eq!(y, wanted);
    }
}

/// Every bf16 and f16 is read and written as `half` does, and f32 and f64 are rounded to them alike.
#[test]
fn sixteen_bit_elements() {
    for dtype in [Dtype::Bf16, Dtype::F16] {
        for ty in [Ty::F32, Ty::F64] {
            let mut proc = sample::map(LoopOp::Copy, 1, ty, dtype, None);
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let y = through(&proc, bytes.clone(), 1 << 16);
            let words = |b: &[u8]| -> Vec<u16> {
                b.chunks(2)
                    .map(|w| u16::from_le_bytes([w[0], w[1]]))
                    .collect()
            };
            for (x, y) in words(&bytes).into_iter().zip(words(&y)) {
                let is_nan = |bits| match dtype {
                    Dtype::Bf16 => ::half::bf16::from_bits(bits).is_nan(),
                    _ => ::half::f16::from_bits(bits).is_nan(),
                };
                assert!(x == y || is_nan(x) && is_nan(y), "{dtype} {x:#x} {y:#x}");
            }
            proc.buffers[0].dtype = if ty == Ty::F64 {
                Dtype::F64
            } else {
                Dtype::F32
            };
            let numbers = hard_to_round(ty);
            let mut memory = Memory::new();
            let role = Role::Input(InputId(0));
            memory.set(role, proc.buffers[0].dtype, &numbers);
            let bytes = memory.take(role).unwrap();
            let y = words(&through(&proc, bytes, numbers.len()));
            for (x, y) in numbers.iter().zip(y) {
                memory.set(role, dtype, &[*x]);
                let wanted = words(&memory.take(role).unwrap())[0];
                assert!(
                    wanted == y || x.is_nan(),
                    "{dtype} {x:e}: {y:#x}, not {wanted:#x}"
                );
            }
        }
    }
}

/// A machine with an operation for 2ˣ in f32.
fn with_exp2() -> Supports {
    let mut supports = supports(true);
    supports.add_single(LoopOp::Math(Op::Exp2));
    supports
}

#[test]
fn a_share_of_the_exponentials_is_written_out_evenly() {
    let op = LoopOp::Math(Op::Exp2);
    let proc = sample::map(op, 1, Ty::F32, Dtype::F32, None);
    for (share, wanted) in [
        (0, "********"),
        (1, "*******-"),
        (2, "***-***-"),
        (3, "**-**-*-"),
        (8, "--------"),
    ] {
        let mut sixteen = proc.clone();
        sixteen.exp2 = share;
        let copies = |body: Vec<Stmt>| {
            let is = |s: &Stmt| matches!(s, Stmt::Set(_, Rhs::Op(o, _)) if *o == op);
            let times = |s: Stmt| vec![s.clone(); if is(&s) { 16 } else { 1 }];
            body.into_iter().flat_map(times).collect::<Vec<_>>()
        };
        sixteen.body = inner(sixteen.body, &copies);
        let legal = legalize(sixteen, &with_exp2());
        verify(&legal).unwrap();
        let kinds = std::cell::RefCell::new(String::new());
        // A power written out ends in the product with its scale, and has the only shift.
        let look = |body: Vec<Stmt>| {
            for s in &body {
                match s {
                    Stmt::Set(_, Rhs::Op(o, _)) if *o == op => kinds.borrow_mut().push('*'),
                    Stmt::Set(_, Rhs::Op(LoopOp::Shl(_), _)) => kinds.borrow_mut().push('-'),
                    _ => {}
                }
            }
            body
        };
        inner(legal.body.clone(), &look);
        assert_eq!(*kinds.borrow(), wanted.repeat(2), "{share} of 8");
        assert_eq!(legal.exp2, 0, "legalising twice changes nothing");
        let again = legalize(legal.clone(), &with_exp2()).to_string();
        assert_eq!(again, legal.to_string());
    }
}

/// The statements with every innermost block changed.
fn inner(body: Vec<Stmt>, change: &dyn Fn(Vec<Stmt>) -> Vec<Stmt>) -> Vec<Stmt> {
    let nested = |s: &Stmt| matches!(s, Stmt::For { .. } | Stmt::If { .. });
    if !body.iter().any(nested) {
        return change(body);
    }
    let into = |s: Stmt| s.map_blocks(|body| inner(body, change));
    body.into_iter().map(into).collect()
}

/// The output's bytes for these input bytes.
fn through(proc: &Proc, bytes: Vec<u8>, len: usize) -> Vec<u8> {
    let legal = legalize(proc.clone(), &supports(true));
    verify(&legal).unwrap();
    let mut memory = Memory::new();
    memory.put(Role::Input(InputId(0)), bytes);
    let program = Program {
        procs: vec![legal],
        workspaces: Vec::new(),
    };
    interp(&program, &mut memory, &[len as i64, 1, 1]).unwrap();
    memory.take(Role::Output(0)).unwrap()
}

/// Numbers at, and just beside, ties of both formats, at all their magnitudes, and the ends of their ranges.
fn hard_to_round(ty: Ty) -> Vec<f64> {
    let mut x = vec![
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        65504.0,
        65519.9,
        65520.0,
        3.39e38,
        3.4e38,
        1e-45,
        5.97e-8,
        2.9e-8,
    ];
    for e in -30..20 {
        for m in [1.0, 1.0 + 1.0 / 128.0, 1.0 + 1.0 / 1024.0, 1.5] {
            for tie in [0.0, 1.0 / 256.0, 1.0 / 2048.0] {
                for tiny in [
                    0.0,
                    0.5f64.powi(40),
                    -0.5f64.powi(40),
                    0.5f64.powi(23),
                    -0.5f64.powi(23),
                ] {
                    x.push((m + tie + tiny) * 2f64.powi(e));
                }
            }
        }
    }
    let minus: Vec<f64> = x.iter().map(|x| -x).collect();
    x.extend(minus);
    x.into_iter().map(|x| as_stored(ty, x)).collect()
}
