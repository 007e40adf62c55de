//! 2ˣ, eˣ, eˣ − 1, φ₁, tanh and the logistic function.
//!
//! x·log₂e = n + f·log₂e with the integer n nearest: adding 1.5·2²³ (f64: 2⁵²) rounds, and leaves n in the lowest
//! bits, from where a shift makes 2ⁿ⁻¹ of it. eᶠ = 1 + f·q(f), q minimax in relative error, its constant exact so that
//! integers give exact powers of two. The half in 2ⁿ⁻¹ is put into the polynomial: 2ⁿ alone would overflow before the
//! result does. Results below 2⁻¹²⁵·⁵ (f64: 2⁻¹⁰²¹·⁵) are 0; NaN stays NaN.

use std::f64::consts::{LN_2, LOG2_E};

use selscan_dsl::Op;

use super::code::{Both, Code};
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Reg};

/// (2ᶠ − 1)/f on |f| ≤ 1/2; error 9.2e-8.
const EXP2_F32: [f64; 5] = [
    0.693_146_977_621,
    0.240_222_420_824,
    0.055_507_337_142_3,
    0.009_671_512_786_9,
    0.001_326_473_554_27,
];
/// The same; error 4.2e-20.
const EXP2_F64: [f64; 12] = [
    LN_2,
    0.240_226_506_959_100_72,
    0.055_504_108_664_821_69,
    0.009_618_129_107_628_33,
    0.001_333_355_814_639_269,
    0.000_154_035_303_936_407_25,
    1.525_273_385_431_848_8e-5,
    1.321_548_659_490_789_3e-6,
    1.017_805_194_187_201_3e-7,
    7.054_974_480_065_481e-9,
    4.456_570_523_030_437_4e-10,
    2.562_541_823_242_948_8e-11,
];
/// (eᶠ − 1)/f on |f| ≤ ln 2/2; error 2.0e-9.
const EXP_F32: [f64; 6] = [
    1.000_000_032_258_496_8,
    0.499_999_941_917_709_1,
    0.166_664_308_004_506_2,
    0.041_668_004_708_653_34,
    0.008_374_195_624_459_901,
    0.001_384_360_732_053_832_8,
];
/// The same; error 4.2e-20.
const EXP_F64: [f64; 12] = [
    1.0,
    0.5,
    0.166_666_666_666_667,
    0.041_666_666_666_666_026,
    0.008_333_333_333_310_9,
    0.001_388_888_888_912_345_9,
    0.000_198_412_699_068_427_7,
    2.480_158_693_408_599_4e-5,
    2.755_722_680_270_967_8e-6,
    2.755_756_525_183_292_5e-7,
    2.511_434_068_994_532_2e-8,
    2.083_360_960_041_448e-9,
];
/// ln 2 in two parts: the first has so few bits that its product with any n is exact.
const LN2_HIGH: Both = Both {
    f32: 0.693_359_375,
    f64: 0.693_147_180_369_123_8,
};
const LN2_LOW: Both = Both {
    f32: -0.000_212_194_440_054_690_57,
    f64: 1.908_214_929_270_587_7e-10,
};

/// 2ⁿ⁻¹ and n itself, from t = n + 1.5·2^mantissa + bias − 1 as [`shifted`] gives it.
fn power(code: &mut Code, t: Reg, magic: Reg) -> (Reg, Reg) {
    let n = code.sub(t, magic);
    let mantissa = code.layout(t).mantissa;
    let bits = code.bits(t);
    let shifted = code.shl(bits, mantissa);
    (code.bits(shifted), n)
}

/// The constant that rounds, with the exponent's bias less 1 in it.
fn shifter(code: &mut Code, x: Reg) -> Reg {
    let layout = code.layout(x);
    code.float(x, layout.magic() + f64::from(layout.bias - 1))
}

/// 2ˣ: at most 1.5 eps (f32), 1 eps (f64).
pub(super) fn exp2(code: &mut Code, x: Reg) -> Reg {
    let high = code.either(
        x,
        Both {
            f32: 128.0,
            f64: 1024.0,
        },
    );
    let low = code.either(
        x,
        Both {
            f32: -126.0,
            f64: -1022.0,
        },
    );
    let x = code.at_most(high, x);
    let x = code.at_least(low, x);
    let magic = shifter(code, x);
    let t = code.add(x, magic);
    let (scale, n) = power(code, t, magic);
    let f = code.sub(x, n);
    let coefficients: &[f64] = if code.ty(x) == Ty::F64 {
        &EXP2_F64
    } else {
        &EXP2_F32
    };
    let doubled = doubled(coefficients);
    let p = code.horner(f, &doubled);
    code.mul(p, scale)
}

/// 2 + 2·f·q(f) as one polynomial.
fn doubled(q: &[f64]) -> Vec<f64> {
    std::iter::once(&1.0).chain(q).map(|c| 2.0 * c).collect()
}

/// 2ⁿ⁻¹ and f for x = n·ln 2 + f, x within the bounds that the result can tell apart.
fn reduce(code: &mut Code, x: Reg, low: Both) -> (Reg, Reg) {
    let high = code.either(
        x,
        Both {
            f32: 89.0,
            f64: 710.0,
        },
    );
    let low = code.either(x, low);
    let x = code.at_most(high, x);
    let x = code.at_least(low, x);
    let magic = shifter(code, x);
    let log2e = code.float(x, LOG2_E);
    let t = code.fma(x, log2e, magic);
    let (scale, n) = power(code, t, magic);
    let f = subtract_multiple(code, x, n, LN2_HIGH);
    (scale, subtract_multiple(code, f, n, LN2_LOW))
}

fn subtract_multiple(code: &mut Code, x: Reg, n: Reg, of: Both) -> Reg {
    let minus = code.either(
        x,
        Both {
            f32: -of.f32,
            f64: -of.f64,
        },
    );
    code.fma(n, minus, x)
}

fn coefficients(ty: Ty) -> &'static [f64] {
    if ty == Ty::F64 { &EXP_F64 } else { &EXP_F32 }
}

/// eˣ: at most 1 eps. Where 2ˣ is one operation, 2 eps and |x|/2 eps more: the rounding of x·log₂e.
pub(super) fn exp(code: &mut Code, x: Reg) -> Reg {
    if code.has(LoopOp::Math(Op::Exp2), x) {
        let log2e = code.float(x, LOG2_E);
        let scaled = code.mul(x, log2e);
        let ty = code.ty(x);
        return code.op(ty, LoopOp::Math(Op::Exp2), &[scaled]);
    }
    let (scale, f) = reduce(
        code,
        x,
        Both {
            f32: -87.6,
            f64: -708.7,
        },
    );
    let p = doubled(coefficients(code.ty(x)));
    let p = code.horner(f, &p);
    code.mul(p, scale)
}

/// eˣ − 1 = 2·(2ⁿ⁻¹·f·q(f) + (2ⁿ⁻¹ − 1/2)): where n = 0 the second term is 0 and nothing cancels. 1.7 eps.
pub(super) fn expm1(code: &mut Code, x: Reg) -> Reg {
    let (scale, f) = reduce(
        code,
        x,
        Both {
            f32: -40.0,
            f64: -80.0,
        },
    );
    let q = code.horner(f, coefficients(code.ty(x)));
    let fq = code.mul(f, q);
    let half = code.float(x, 0.5);
    let rest = code.sub(scale, half);
    let sum = code.fma(scale, fq, rest);
    code.add(sum, sum)
}

/// (eˣ − 1)/x, and 1 at 0: 1.8 eps.
pub(super) fn phi1(code: &mut Code, x: Reg) -> Reg {
    let numerator = expm1(code, x);
    let quotient = code.div(numerator, x);
    let zero = code.float(x, 0.0);
    let one = code.float(x, 1.0);
    let at_zero = code.compare(Op::Eq, x, zero);
    code.select(at_zero, one, quotient)
}

/// w/(w + 2) with w = e²ˣ − 1: keeps its relative accuracy near 0. Beyond ±10 (f64: ±20) it is ±1. 2.2 eps.
pub(super) fn tanh(code: &mut Code, x: Reg) -> Reg {
    let high = code.either(
        x,
        Both {
            f32: 10.0,
            f64: 20.0,
        },
    );
    let low = code.either(
        x,
        Both {
            f32: -10.0,
            f64: -20.0,
        },
    );
    let x = code.at_most(high, x);
    let x = code.at_least(low, x);
    let twice = code.add(x, x);
    let w = expm1(code, twice);
    let two = code.float(x, 2.0);
    let sum = code.add(w, two);
    code.div(w, sum)
}

/// 1/(1 + e⁻ˣ): 2.2 eps.
pub(super) fn sigmoid(code: &mut Code, x: Reg) -> Reg {
    let minus = code.neg(x);
    let e = exp(code, minus);
    let one = code.float(x, 1.0);
    let sum = code.add(e, one);
    code.recip(sum)
}
