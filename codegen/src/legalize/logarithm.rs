//! ln, log₂ and softplus.
//!
//! x = 2ᵉ·m with m in [√½, √2): ln m = f − f²/2 + s·(f²/2 + z·L(z)), f = m − 1, s = f/(2 + f), z = s² (fdlibm's
//! e_log.c; its coefficients). 0 gives −∞, numbers below 0 NaN, ∞ itself; subnormal numbers are numbers.

use std::f64::consts::{FRAC_1_SQRT_2, LOG2_E};

use selscan_dsl::Op;

use super::code::{Both, Code};
use super::exponential::exp;
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Reg};

const LOG_F32: [f64; 4] = [
    0.666_666_626_93,
    0.400_009_721_53,
    0.284_987_866_88,
    0.242_790_788_41,
];
const LOG_F64: [f64; 7] = [
    0.666_666_666_666_673_5,
    0.399_999_999_994_094_2,
    0.285_714_287_436_623_9,
    0.222_221_984_321_497_84,
    0.181_835_721_616_180_5,
    0.153_138_376_992_093_73,
    0.147_981_986_051_165_86,
];
const LN2_HIGH: Both = Both {
    f32: 0.693_138_122_558_593_8,
    f64: 0.693_147_180_369_123_8,
};
const LN2_LOW: Both = Both {
    f32: 9.058_000_614_493_76e-6,
    f64: 1.908_214_929_270_587_7e-10,
};

/// (artanh(√z)/√z − 1)/z on [0, 1/9]; errors 4.6e-9 and 3.6e-20.
const ARTANH_F32: [f64; 4] = [
    0.333_332_065_588_016_65,
    0.200_108_499_731_339_76,
    0.139_995_631_007_461_37,
    0.140_122_672_469_404_52,
];
const ARTANH_F64: [f64; 11] = [
    0.333_333_333_333_333_37,
    0.199_999_999_999_969_9,
    0.142_857_142_862_550_58,
    0.111_111_110_627_317_32,
    0.090_909_116_016_245_93,
    0.076_922_259_613_785_88,
    0.066_684_029_956_231_43,
    0.058_579_743_253_722_36,
    0.054_862_906_929_715_02,
    0.034_970_939_947_207_35,
    0.082_338_686_244_380_15,
];

/// ln(1 + y)/y on [0, 1]; error 3.0e-8.
const LOG1P_F32: [f64; 9] = [
    0.999_999_969_878,
    -0.499_994_931_246,
    0.333_190_964_765,
    -0.248_429_795_764,
    0.191_059_964_36,
    -0.136_632_238_32,
    0.078_225_692_947_6,
    -0.029_505_079_766_6,
    0.005_232_654_583_17,
];

/// x = 2ᵉ·m, the parts of ln m.
struct Parts {
    e: Reg,
    f: Reg,
    half_square: Reg,
    /// s·(f²/2 + z·L(z)).
    tail: Reg,
}

fn parts(code: &mut Code, x: Reg) -> Parts {
    let layout = code.layout(x);
    // Subnormal numbers have no exponent to read: scaled into the normal range.
    let shift = f64::from(layout.mantissa) + 2.0;
    let smallest = code.float(x, f64::from(1 - layout.bias).exp2());
    let up = code.float(x, shift.exp2());
    let scaled = code.mul(x, up);
    let subnormal = code.compare(Op::Lt, x, smallest);
    let x = code.select(subnormal, scaled, x);
    let bits = code.bits(x);
    // Of the sum with bits(1) − bits(√½), the exponent is that of x/√½.
    let sqrt_half = match code.ty(x) {
        Ty::F64 => FRAC_1_SQRT_2.to_bits(),
        _ => u64::from((FRAC_1_SQRT_2 as f32).to_bits()),
    };
    let offset = code.int(x, layout.one() - sqrt_half);
    let moved = code.iadd(bits, offset);
    let exponent = code.shr(moved, layout.mantissa);
    let above = code.shl(exponent, layout.mantissa);
    let one_bits = code.int(x, layout.one());
    let rest = code.isub(bits, above);
    let mantissa = code.iadd(rest, one_bits);
    let m = code.bits(mantissa);
    // The exponent as a float: below 2^mantissa it is that number's lowest bits.
    let whole = layout.ulp_one();
    let whole_bits = match code.ty(x) {
        Ty::F64 => whole.to_bits(),
        _ => u64::from((whole as f32).to_bits()),
    };
    let whole_bits = code.int(x, whole_bits);
    let e = code.or(exponent, whole_bits);
    let e = code.bits(e);
    let bias = f64::from(layout.bias);
    let normal = code.float(x, whole + bias);
    let lower = code.float(x, whole + bias + shift);
    let by = code.select(subnormal, lower, normal);
    let e = code.sub(e, by);

    let one = code.float(x, 1.0);
    let two = code.float(x, 2.0);
    let half = code.float(x, 0.5);
    let f = code.sub(m, one);
    let sum = code.add(f, two);
    let s = code.div(f, sum);
    let z = code.mul(s, s);
    let square = code.mul(f, f);
    let half_square = code.mul(square, half);
    let coefficients: &[f64] = if code.ty(x) == Ty::F64 {
        &LOG_F64
    } else {
        &LOG_F32
    };
    let l = code.horner(z, coefficients);
    let r = code.fma(z, l, half_square);
    let tail = code.mul(s, r);
    Parts {
        e,
        f,
        half_square,
        tail,
    }
}

/// The result, or what stands for it outside (0, ∞).
fn domain(code: &mut Code, x: Reg, result: Reg) -> Reg {
    let zero = code.float(x, 0.0);
    let infinity = code.float(x, f64::INFINITY);
    let minus = code.float(x, f64::NEG_INFINITY);
    let nan = code.float(x, f64::NAN);
    let is_zero = code.compare(Op::Eq, x, zero);
    let outside = code.select(is_zero, minus, nan);
    let positive = code.compare(Op::Lt, zero, x);
    let result = code.select(positive, result, outside);
    let finite = code.compare(Op::Lt, x, infinity);
    code.select(finite, result, x)
}

/// ln x: 1 eps.
pub(super) fn log(code: &mut Code, x: Reg) -> Reg {
    let p = parts(code, x);
    let (high, low) = (code.either(x, LN2_HIGH), code.either(x, LN2_LOW));
    let tail = code.fma(p.e, low, p.tail);
    let tail = code.sub(tail, p.half_square);
    let sum = code.add(tail, p.f);
    let result = code.fma(p.e, high, sum);
    domain(code, x, result)
}

/// log₂ x = e + ln m·log₂ e; e is 0 around 1, so nothing cancels. 1.2 eps.
pub(super) fn log2(code: &mut Code, x: Reg) -> Reg {
    let p = parts(code, x);
    let log2e = code.float(x, LOG2_E);
    let tail = code.sub(p.tail, p.half_square);
    let ln = code.add(tail, p.f);
    let result = code.fma(ln, log2e, p.e);
    domain(code, x, result)
}

/// max(x, 0) + ln(1 + y), y = e^−|x|, with ln(1 + y) = 2·artanh(s), s = y/(2 + y): for x far below 0 it is y to full
/// relative accuracy. Above 20 it is x, as it is by definition. 2 eps.
///
/// Where 2ˣ is one f32 operation a quotient costs more than a polynomial: y·P(y), 2 eps. Above 20 its last bit is
/// below half of x's by itself.
pub(super) fn softplus(code: &mut Code, x: Reg) -> Reg {
    let magnitude = code.abs(x);
    let minus = code.neg(magnitude);
    let y = exp(code, minus);
    if code.ty(x) == Ty::F32 && code.has(LoopOp::Math(Op::Exp2), x) {
        let p = code.horner(y, &LOG1P_F32);
        let zero = code.float(x, 0.0);
        let positive = code.at_least(zero, x);
        return code.fma(y, p, positive);
    }
    let two = code.float(x, 2.0);
    let sum = code.add(y, two);
    let s = code.over(y, sum);
    let z = code.mul(s, s);
    let coefficients: &[f64] = if code.ty(x) == Ty::F64 {
        &ARTANH_F64
    } else {
        &ARTANH_F32
    };
    let r = code.horner(z, coefficients);
    let rz = code.mul(r, z);
    let twice = code.add(s, s);
    let log = code.fma(rz, twice, twice);
    let zero = code.float(x, 0.0);
    let positive = code.at_least(zero, x);
    let result = code.add(positive, log);
    let twenty = code.float(x, 20.0);
    let linear = code.compare(Op::Lt, twenty, x);
    code.select(linear, x, result)
}
